"""Training, prediction and the programs on a GPU that is pretended: nothing mixes devices, and what waits is known."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import Step
from models.video_swin import VARIANTS
from tasks.training import Trainer
from tests.commands import in_own_process
from tests.pretended_gpu import needs_pretended_gpu, pretended_gpu
from tests.runs import trainer
from util.run.interrupt import StopRequest
from util.run.log import RunLog

pytestmark = needs_pretended_gpu

# small, but with shifted windows, and windows with padding
VARIANTS["video_swin_t"] |= dict(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 1, 2, 2])
NETWORKS = {
    "video_swin_t": "--backbone video_swin_t --stochastic_depth 0",
    "tsm_resnet10_half": "",
    "referformer": "--model referformer --with_box_refine --dec_layers 2 --dim_feedforward 32 --hidden_dim 32",
}


def start(root: Path, folder: Path, network: str, *flags: object) -> Trainer:
    """A new run that draws nothing in its steps."""
    run = trainer(root, folder, *NETWORKS[network].split(), "--dropout", 0, *flags)
    for module in run.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return run


def two_steps(run: Trainer, waits: Counter[str] | None = None) -> list[Step]:
    """Two steps as the run takes them; ``waits`` are then those of the second one."""
    steps, take_step = [], run.take_step
    run.take_step = lambda *of_step: steps.append(take_step(*of_step)) or steps[-1]
    loaded, model = run.batches(), run.wrap()
    run.start_training(model)
    with closing(StopRequest()) as run.stop, closing(RunLog(run.settings.output_dir)) as run.log:
        for _ in range(2):
            waits = waits and waits.clear()
            run.train_step(model, run.next_batches(loaded))
    return steps


@pytest.mark.parametrize("network", NETWORKS)
@in_own_process
def test_steps_give_the_numbers_of_the_cpu(ytvos_root, tmp_path, network):
    wanted = two_steps(start(ytvos_root, tmp_path / "cpu", network))
    with pretended_gpu() as waits:
        run = start(ytvos_root, tmp_path / "gpu", network, "--device", "cuda")
        found = two_steps(run, waits)
        print(waits)
    for here, there in zip(found, wanted, strict=True):
        print(here, there)
    assert 0
