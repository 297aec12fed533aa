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
from tests.commands import run_ranks
from tests.runs import log, trainer
from util.run import dist
from util.run.interrupt import Interrupted
from util.weights import checkpoint
from util.weights.saver import NEWEST

# Without dropout and the JSC loss, which differ with the number of ranks, the losses are the same.
SHARED = """
    --backbone timm:convnext_atto --dropout 0 --freeze_text_encoder --jsc_target none --num_frames 1 --epochs 1
    --expressions_per_clip 1 --batch_size 1 --global_batch_size 6 --ema_decay 0.9 --lr 1e-4
"""
STEPS, CLIPS = 6, 36
# number of ranks, and the step before which they are asked to stop: 2 -> 1 -> 2 -> 3 within one epoch
CHAIN = ((2, 2), (1, 3), (2, 4), (3, None))


def part(rank: int, root: str, folder: str, stop: int | None, flags: str) -> None:
    """Starts a run or goes on with it, and records what each step sees and its loss over all ranks."""
    run = trainer(Path(root), Path(folder), *SHARED.split(), *flags.split())
    seen, take_step = [], run.take_step

    def record(model, batches) -> Step:
        step = take_step(model, batches)
        clips = [
            (clip["video_id"], clip["frame_ids"], text, clip["size"], pixels.double().sum().item())
            for batch in batches
            for clip, text, pixels in zip(batch.clips, batch.expressions, batch.video, strict=True)
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
def test_ranks_that_come_and_go_within_an_epoch_see_what_one_process_sees(ytvos_root, whole, tmp_path, flags):
    folder = tmp_path / "run"
    for count, stop in CHAIN:
        arguments = (str(ytvos_root), str(folder), stop, flags)
        if count == 1:
            part(0, *arguments)
        else:
            run_ranks(part, count, *arguments)
    wanted, got = steps_of(whole), steps_of(folder)
    assert [step["count"] for step in got] == [2, 2, 1, 2, 3, 3] and len(wanted) == STEPS
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
