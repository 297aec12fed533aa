"""A run goes on with another number of ranks in the middle of an epoch, and sees what one without interruption sees."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from engine import Step
from tasks import plan, resuming
from tests.commands import run_ranks
from tests.runs import log, same, trainer
from util.run import dist
from util.run.interrupt import Interrupted
from util.weights import checkpoint
from util.weights.saver import NEWEST

# Without dropout and the JSC loss, which differ with the number of ranks, the losses are the same.
SHARED = """
    --freeze backbone.* --dropout 0 --freeze_text_encoder --jsc_target none --num_frames 1 --epochs 1
    --expressions_per_clip 2 --batch_size 1 --global_batch_size 6 --ema_decay 0.9 --lr 1e-4
"""
STEPS, CLIPS = 4, 24
# number of ranks, and the step before which they are asked to stop: 2 -> 1 -> 2 -> 3 within one epoch
CHAIN = ((2, 1), (1, 2), (2, 3), (3, None))


def part(rank: int, root: str, folder: str, stop: int | None, flags: str) -> None:
    """Starts a run or goes on with it, and records what each step sees and its loss over all ranks."""
    run = trainer(Path(root), Path(folder), *SHARED.split(), *flags.split())
    plan.describe(run)
    seen, take_step = [], run.take_step

    def record(model, batches) -> Step:
        step = take_step(model, batches)
        clips = [
            (clip["video_id"], clip["frame_ids"], batch.expressions, batch.video.double().sum().item())
            for batch in batches
            for clip in batch.clips
        ]
        loss = dist.total(torch.tensor(step.terms["loss"], dtype=torch.float64)).item() / dist.world_size()
        seen.append({"step": run.steps_done, "clips": clips, "loss": loss, "count": dist.world_size()})
        if rank == 0 and run.steps_done + 1 == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return step

    run.take_step = record
    with suppress(Interrupted):
        run.run()
    (Path(folder) / f"seen_{run.steps_done}_{rank}.json").write_text(json.dumps(seen))


def steps_of(folder: Path) -> list[dict]:
    """What the ranks of all parts of a run saw together, step by step."""
    steps: dict[int, dict] = {}
    for path in folder.glob("seen_*.json"):
        for one in json.loads(path.read_text()):
            of_all = steps.setdefault(one["step"], {**one, "clips": []})
            assert of_all["loss"] == one["loss"]
            of_all["clips"] = sorted(of_all["clips"] + one["clips"])
    return [steps[step] for step in sorted(steps)]


@pytest.fixture(scope="module")
def whole(ytvos_root, tmp_path_factory) -> Path:
    """The folder of a run of one process without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    part(0, str(ytvos_root), str(folder), None, "")
    return folder


@pytest.mark.parametrize("flags", ["", "--fsdp"])
def test_ranks_that_come_and_go_within_an_epoch_see_what_one_process_sees(ytvos_root, whole, tmp_path, capsys, flags):
    folder = tmp_path / "run"
    for count, stop in CHAIN:
        arguments = (str(ytvos_root), str(folder), stop, flags)
        if count == 1:
            part(0, *arguments)
        else:
            run_ranks(part, count, *arguments)
    said = capsys.readouterr().out  # of the part of one process, which is this one
    assert "after step 1 of epoch 0, with 1 process where 2 were: its steps see the same clips" in said
    assert ("whole in this one process" in said) == bool(flags)
    wanted, got = steps_of(whole), steps_of(folder)
    assert [step["count"] for step in got] == [2, 1, 2, 3] and len(wanted) == STEPS
    assert [step["clips"] for step in got] == [step["clips"] for step in wanted]
    assert Counter(str(clip[:3]) for step in got for clip in step["clips"]).most_common(1)[0][1] == 1
    assert sum(len(step["clips"]) for step in got) == CLIPS
    assert [step["loss"] for step in got] == pytest.approx([step["loss"] for step in wanted], rel=1e-3)
    (mean,), (of_chain,) = log(whole), log(folder)
    assert of_chain == pytest.approx(mean, rel=1e-3)
    states = [checkpoint.load(f / NEWEST) for f in (whole, folder)]
    assert states[0]["scheduler"] == states[1]["scheduler"] and len(states[1]["ranks"]) == 3
    for name in ("model", "average"):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-3, atol=2e-5)


def test_a_checkpoint_that_does_not_name_its_global_batch_tells_it_by_its_ranks(ytvos_root, tmp_path, capsys):
    """Of a version that wrote no ``grouped``, either. The batches may be smaller afterwards, with the same clips."""
    trainer(ytvos_root, tmp_path / "run", "--epochs", 1).run()
    path = tmp_path / "run" / NEWEST
    saved = checkpoint.load(path)
    assert saved["options"]["global_batch_size"] == saved["grouped"] == 2
    assert "bit for bit" in resuming.promise(saved, saved["options"], 1, torch.device("cpu"))
    del saved["grouped"]
    saved["options"]["global_batch_size"] = None
    saved["ranks"] = [saved["ranks"][0] | {"sums": {"loss": 1.0}, "replaced": 1}, saved["ranks"][0]]
    checkpoint.save(path, saved)
    run = trainer(ytvos_root, tmp_path / "run", "--batch_size", 1)
    assert run.settings.accumulate == 4 and run.loader.batch_sampler.grouped == 2
    assert same(torch.get_rng_state(), saved["ranks"][0]["rng"])
    with pytest.raises(ValueError, match="takes 4 clips, 3 of them at once .* evenly; give another --batch"):
        trainer(ytvos_root, tmp_path / "run", "--batch_size", 3)
    with pytest.raises(ValueError, match="--global_batch_size is 4 there, 8 now"):
        trainer(ytvos_root, tmp_path / "run", "--global_batch_size", 8)


def test_numbers_of_processes_that_cannot_share_a_step_are_told_which_can():
    assert [resuming.micro_batches(2, 12, ranks, "x.pth") for ranks in (1, 2, 3, 6)] == [6, 3, 2, 1]
    for ranks in (4, 5, 12):
        with pytest.raises(ValueError, match=f"{ranks} processes cannot .* numbers of processes: 1, 2, 3, 6; or"):
            resuming.micro_batches(2, 12, ranks, "x.pth")


def test_streams_stay_with_their_ranks_and_others_are_new():
    saved = {"epoch": 1, "step": 3, "ranks": [{"rng": r, "sums": {"loss": float(r)}, "replaced": r} for r in (1, 2)]}
    states = [resuming.of_rank(saved, rank, 3) for rank in range(3)]
    assert [state["rng"] for state in states] == [1, 2, None]
    assert [state["replaced"] for state in states] == [3, 0, 0]
    assert [state["sums"] for state in states] == [{"loss": 1.5}] * 3
    assert resuming.of_rank(saved, 1, 2) is saved["ranks"][1]
    places = [(seed, {"epoch": epoch, "step": 3}, rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1)]
    seeds = [resuming.derived_seed(*place) for place in places]
    assert len(set(seeds)) == len(places) and seeds == [resuming.derived_seed(*place) for place in places]


def test_what_a_run_that_goes_on_has_in_common_with_one_that_was_not_stopped():
    options, cpu, gpu = dict.fromkeys((*resuming.ROUNDING, "float32")), torch.device("cpu"), torch.device("cuda")
    version, threads = resuming.made_with()
    saved = {"ranks": [{"device_rng": None}] * 2, "options": options, "torch": version, "threads": threads}
    earlier = {name: value for name, value in saved.items() if name != "torch"} | {"version": {"torch": version}}
    of_gpu = saved | {"ranks": [{"device_rng": torch.zeros(1)}] * 2}
    for before, now, count, device, told in (
        (saved, {}, 2, cpu, "as before: on a CPU of the same kind bit for bit as if it had not been stopped"),
        (saved, {"float32": "ieee"}, 2, cpu, "on a CPU of the same kind bit for bit"),
        (saved, {"compile": "inductor"}, 2, cpu, "as before, but another --compile: its steps"),
        (saved, {}, 3, cpu, "with 3 processes where 2 were: its steps"),
        (saved | {"ranks": saved["ranks"][:1] * 3}, {}, 3, cpu, "but sums over three or more processes are not reprod"),
        (saved, {}, 2, gpu, "but another kind of device: its steps"),
        (saved | {"torch": "1.0"}, {}, 2, cpu, "but another torch: its steps"),
        (earlier, {}, 2, cpu, "as before: on a CPU of the same kind bit for bit"),
        (earlier | {"version": "0.9.0"}, {}, 2, cpu, "but perhaps another torch: its steps"),
        (saved | {"threads": threads + 1}, {}, 2, cpu, "but another number of threads: its steps"),
        (saved | {"threads": None}, {}, 2, cpu, "but perhaps another number of threads: its steps"),
        (of_gpu, {}, 2, gpu, "as before: its steps see the same clips with the same state as if"),
        (of_gpu, {"float32": "ieee"}, 2, gpu, "but another --float32: its steps"),
    ):
        assert told in resuming.promise(before, options | now, count, device), told
