"""How much memory a process has taken."""

from __future__ import annotations

import subprocess
import sys

import torch

from util.run.memory import peak_bytes, total_bytes

GIB = 2**30


def test_the_peak_is_of_this_process_alone():
    """Not of the one that started it; and it stays where memory has been given back."""
    held = bytearray(GIB)
    held[::4096] = b"1" * (GIB // 4096)  # every page is touched
    assert peak_bytes(torch.device("cpu")) > GIB
    code = "import torch; from util.run.memory import peak_bytes; print(peak_bytes(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert GIB // 16 < int(child.stdout) < GIB
    del held
    assert peak_bytes(torch.device("cpu")) > GIB


def test_the_driver_of_a_gpu_is_asked_once_for_its_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: asked.append(gpu) or (GIB, (1 + gpu.index) * GIB))
    gpus = [torch.device("cuda", index) for index in (0, 1)]
    total_bytes.cache_clear()
    assert [total_bytes(gpu) for gpu in gpus * 2] == [GIB, 2 * GIB] * 2 and asked == gpus
    total_bytes.cache_clear()
