"""``--device cuda:1`` is the current GPU before a program asks anything of it; buffers are kept on a CPU alone."""

from __future__ import annotations

import importlib.util
import runpy
import socket
import sys

import pytest
import torch

from tests.helpers import ROOT
from util.run import device as devices
from util.run import dist

# each program that computes on a device, with what it needs to come so far
PROGRAMS = {
    "main.py": "",
    "inference_ytvos.py": "--resume no.pth",
    "inference_davis.py": "--resume no.pth",
    "inference_mevis.py": "--resume no.pth",
    "inference_long_rvos.py": "--resume no.pth",
    "inference_video.py": "no.mp4 --text dog --resume no.pth",
    "app.py": "--resume no.pth --port {port}",
    "tools/benchmark_inference.py": "",
    "tools/benchmark_inference.py --one": "resnet18 32 32 1 1 fp32",
    "tools/benchmark_levers.py": "",
    "tools/benchmark_windows.py --one": "8 1",
    "tools/benchmark_train.py": "",
    "tools/benchmark_train.py --one": "fp32",
    "tools/compare_referformer.py": "no.pt --text_encoder no",
    "tools/paper.py": "cost --one b",
    "tools/profile_model.py": "",
    "tools/small_job/pretrain_alignment.py": "no --text_encoder no --output_dir {out}",
    "tools/small_job/queries.py": "no.pth --ytvos_path no",
    "tools/small_job/run.py": "--output_dir {out}",
    "tools/verify_published.py": "no.pth",
}


class Selected(BaseException):
    """Raised where a program selects a GPU, in place of that."""


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, none of which may be asked anything but how many there are."""

    def select(device: object) -> None:
        raise Selected(torch.device(device).index)

    def asked() -> None:
        raise AssertionError("the driver is asked before a GPU is selected")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", select)
    monkeypatch.setattr(torch.cuda, "_lazy_init", asked)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_selects_its_gpu_before_it_asks_for_the_current_one(program, two_gpus, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "gradio" or find(name, *more))
    file, *flags = program.split()
    words = PROGRAMS[program].format(port=free_port(), out=tmp_path / "out").split()
    monkeypatch.setattr(sys, "argv", [file, *flags, *words, "--device", "cuda:1"])
    with pytest.raises(Selected) as where:
        runpy.run_path(str(ROOT / file), run_name="__main__")
    assert where.value.args == (1,)


def test_every_rank_selects_its_own_gpu_first(two_gpus, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Selected, match="1"), dist.joined("cuda"):
        pass


def test_large_buffers_are_kept_where_the_cpu_computes(two_gpus, monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "keep_large_buffers", lambda: kept.append(True))
    assert devices.use_device(None).type == "cuda" and not kept
    assert devices.use_device("cpu").type == "cpu" and kept
