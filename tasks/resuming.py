"""The state of a run in a checkpoint, beside its model: what it must hold so that the run can go on, with as many
processes as before or with others.

With as many, each process takes up its own state. The run then ends as one without interruption, bit for bit, on a CPU
of the same kind, with at most two processes, the same version of torch and as many threads. With others, the steps see
the same clips: a step takes as many as before, in the same order (:mod:`datasets.samplers`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from datasets.sampling import stream
from util.run.counts import counted

NUMBERS = ("epoch", "step", "taken", "skipped")
MOST_PROCESSES = 4096  # that a message counts up to
# options that may change when a run goes on, and change how it rounds
ROUNDING = ("activation_checkpointing", "batch_size", "compile", "fsdp")


def check_state(saved: dict, source: object) -> None:
    """Checks the form of what ``Trainer.save`` writes beside weights, optimiser and schedule.

    Raises:
        ValueError: naming ``source``, and what cannot be used or is missing.
    """
    if "optimizer" not in saved:
        raise ValueError(
            f"{source} holds exported weights, from which training cannot go on; start a new run from them with "
            "--pretrained_weights"
        )
    if "ranks" not in saved:
        raise ValueError(
            f"{source} was written by an earlier version of this program, without what it takes to go on exactly; "
            "start a new run from it with --pretrained_weights"
        )
    best, ranks, grouped = saved.get("best"), saved["ranks"], clips_grouped(saved)
    sound = (
        all(_is_count(saved.get(name)) for name in NUMBERS)
        and (best is None or isinstance(best, int | float))
        and {"scheduler", "scaler"} <= saved.keys()
        and isinstance(ranks, list)
        and bool(ranks)
        and all(map(_is_of_rank, ranks))
        and _is_count(grouped)
        and 0 < grouped <= global_batch(saved)
        and global_batch(saved) % grouped == 0
    )
    if not sound:
        raise ValueError(
            f"{source} is damaged: it does not say how far the run is; take an earlier checkpoint, or start a new run "
            "from its weights with --pretrained_weights"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_of_rank(state: object) -> bool:
    """Whether this is the state of one process: its random stream, its sums, and how many clips it replaced."""
    if not isinstance(state, dict):
        return False
    sums, device_rng = state.get("sums"), state.get("device_rng")
    return (
        _is_stream(state.get("rng"))
        and len(state["rng"]) == len(torch.get_rng_state())
        and (device_rng is None or _is_stream(device_rng))
        and isinstance(sums, dict)
        and all(isinstance(k, str) and isinstance(v, int | float) for k, v in sums.items())
        and _is_count(state.get("replaced"))
    )


def _is_stream(value: object) -> bool:
    """Whether this has the form of a random stream's state, uint8 ``[n]``."""
    return type(value) is Tensor and value.layout is torch.strided and value.dtype == torch.uint8 and value.ndim == 1


def global_batch(saved: dict) -> int:
    """Clips of a step of the run, over all its processes; earlier checkpoints say it by the number of these."""
    wanted, batch = (saved["options"].get(name) for name in ("global_batch_size", "batch_size"))
    return wanted or (batch or 1) * len(saved["ranks"])


def clips_grouped(saved: dict) -> int:
    """Clips that the sampler of the run puts together by their shape; in earlier checkpoints those of a batch."""
    return saved.get("grouped", saved["options"].get("batch_size", 1))


def micro_batches(batch_size: int, global_batch_size: int | None, world_size: int, resume: str | None = None) -> int:
    """Batches that a rank takes for one step.

    Args:
        global_batch_size: clips of a step over all ranks; None: as many as these take at once.
        resume: the checkpoint whose run goes on, for the message.

    Raises:
        ValueError: ``global_batch_size`` is no multiple of ``batch_size * world_size``.
    """
    at_once = batch_size * world_size
    if global_batch_size is None:
        return 1
    if not global_batch_size % at_once:
        return global_batch_size // at_once
    if resume is None:
        raise ValueError(
            f"--global_batch_size {global_batch_size} is no multiple of {at_once}, which {world_size} ranks with "
            f"--batch_size {batch_size} take at once; the next that is one is "
            f"{-(-global_batch_size // at_once) * at_once}"
        )
    most = min(global_batch_size // batch_size, MOST_PROCESSES)
    able = [str(n) for n in range(1, most + 1) if not global_batch_size % (batch_size * n)]
    start = f"start one of these numbers of processes: {', '.join(able)}; or " if able else ""
    raise ValueError(
        f"--resume {resume}: a step of this run takes {global_batch_size} clips, {batch_size} of them at once in a "
        f"process (--batch_size), and {processes(world_size)} cannot share them evenly; {start}give another "
        "--batch_size"
    )


def of_rank(saved: dict, rank: int, world_size: int) -> dict:
    """The state of one of the processes with which a run goes on.

    With as many ranks as before, each takes its own state. With another number, every rank gets the mean of the loss
    sums, and rank 0 the number of replaced clips. Random streams stay with the rank that had them. A rank that had none
    gets None, for :func:`derived_seed`.
    """
    ranks = saved["ranks"]
    if len(ranks) == world_size:
        return ranks[rank]
    own = ranks[rank] if rank < len(ranks) else {"rng": None, "device_rng": None}
    names = {name: None for of_rank in ranks for name in of_rank["sums"]}
    sums = {name: sum(of_rank["sums"].get(name, 0.0) for of_rank in ranks) / len(ranks) for name in names}
    return own | {"sums": sums, "replaced": 0 if rank else sum(of_rank["replaced"] for of_rank in ranks)}


def derived_seed(seed: int, saved: dict, rank: int) -> int:
    """The seed of a process whose random stream no checkpoint has: a function of the seed of the run, the place where
    it goes on, and the rank. So a rank that comes anew draws what no rank has drawn before."""
    return int(stream(seed, saved["epoch"], saved["step"], rank).integers(2**63))


def promise(saved: dict, now: Mapping[str, object], world_size: int, device: torch.device) -> str:
    """A sentence: what a run that goes on with the options ``now`` on ``device`` has in common with one that was not
    stopped."""
    before, gpu = len(saved["ranks"]), device.type == "cuda"
    options = (*ROUNDING, *["float32"] * gpu)  # a CPU has no TF32
    changed = [f"another --{name}" for name in options if now[name] != saved["options"].get(name)]
    if gpu != any(of_rank["device_rng"] is not None for of_rank in saved["ranks"]):
        changed.append("another kind of device")
    version = saved.get("version")
    earlier = version if isinstance(version, dict) else {}  # before 0.9 it was {"torch": its version}
    written = (saved.get("torch", earlier.get("torch")), saved.get("threads"))
    for name, there, here in zip(("torch", "number of threads"), written, made_with(), strict=True):
        if not isinstance(there, str | int):  # an earlier checkpoint does not say it
            changed.append(f"perhaps another {name}")
        elif there != here:
            changed.append(f"another {name}")
    if world_size == before and not changed:
        end = "on a CPU of the same kind bit for bit as if it had not been stopped"
        if gpu or world_size > 2:
            # DDP puts its buckets together anew after the first step (should_rebuild_buckets in torch's reducer.hpp),
            # and with three ranks sums may depend on places in them
            sums = "some sums of CUDA" if gpu else "sums over three or more processes"
            end = (
                "its steps see the same clips with the same state as if it had not been stopped, but "
                f"{sums} are not reproducible"
            )
        return f"with {processes(world_size)} as before: {end}"
    other = f"where {before} were" if world_size != before else f"as before, but {', '.join(changed)}"
    return (
        f"with {processes(world_size)} {other}: its steps see the same clips as if it had not been stopped, but its "
        "weights are not the same to the last bit"
    )


def made_with() -> tuple[str, int]:
    """What changes the last bits of a CPU's sums: the version of torch, and the number of threads."""
    return str(torch.__version__), torch.get_num_threads()


def processes(number: int) -> str:
    return counted(number, "processes", "process")
