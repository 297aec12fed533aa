"""What the options of training do to a built model: freezing, recomputing, compiling, dividing among processes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models.fast.recompute import recompute
from models.network import Network
from util.run import dist

RECOMPILE_LIMIT = 256


def blocks(model: Network) -> list[nn.Module]:
    """The parts of the encoders, and those behind them, that run one after the other; they hold most of the weights."""
    return [*model.backbone.blocks(), *model.text_encoder.model.encoder.layer, *model.stages()]


def freeze(model: Network, patterns: list[str]) -> dict[str, int]:
    """Excludes from training the parameters whose names match the patterns of a shell, such as ``backbone.*``.

    Returns:
        How many parameters (numbers, not tensors) each pattern names.

    Raises:
        ValueError: a pattern matches no name, or nothing is left to train.
    """
    counts = {}
    for pattern in patterns:
        named = [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        if not named:
            parts = ", ".join(f"{name}.*" for name, _ in model.named_children())
            raise ValueError(f"--freeze {pattern} is the name of no parameter; there are {parts}")
        counts[pattern] = sum(p.numel() for p in named)
        for parameter in named:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("--freeze leaves nothing to train")
    return counts


def train_mode(model: Network) -> None:
    """Training mode, except for modules that are wholly frozen: these keep their statistics and drop nothing."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def recompute_activations(model: Network) -> None:
    """Keeps no activations within the blocks of the backbone and the stages of the CMIE; the gradient takes a second
    forward pass through them.

    Raises:
        ValueError: the second pass would count the clips twice in the statistics of a batch norm.
    """
    _refuse_trained_norms(model, "--activation_checkpointing", "would count every clip twice")
    for block in (*model.backbone.blocks(), *model.stages()):
        recompute(block)


def compile_blocks(model: Network, backend: str) -> None:
    """Has ``torch.compile`` compile each block when it first runs. The names of the parameters stay the same.

    Blocks are compiled rather than the whole model, because equal blocks are then compiled once.

    Raises:
        ValueError: there is no such backend, or it does not work here.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"--compile {backend}: there is no such backend; choose one of {', '.join(known)}")
    try:  # a small function shows at once whether a compiler is missing
        torch.compile(torch.sin, backend=backend)(torch.ones(2, device=next(model.parameters()).device))
    except TorchDynamoException as error:
        why = " ".join(str(error).strip().partition("\n\n")[0].splitlines())
        raise ValueError(
            f"--compile {backend} does not work here: {why} (a CPU takes a C++ compiler, a GPU the package triton); "
            "or leave it out"
        ) from error
    # all blocks share this limit: a Video Swin has thirteen kinds of blocks, each compiled again for new shapes
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # this would cut the blocks at the bucket limits of DistributedDataParallel, which helps only a wholly compiled
    # model
    torch._dynamo.config.optimize_ddp = False
    for block in blocks(model):
        block.compile(backend=backend)


def replicate(model: Network, device: torch.device) -> nn.Module:
    """The model, wrapped so that the gradients of the ranks are averaged; the model itself where there is one
    process.

    All ranks must hold the same weights and buffers. Before each forward pass rank 0 sends the statistics of its
    trained batch norms. It would also send buffers that never change, which are 14 to 28 MiB in a Video Swin (the
    numbers of its relative positions). PyTorch has no public way to leave out some of them; its
    ``broadcast_buffers=False`` would leave out the statistics, too, and is deprecated.
    """
    if not dist.active():
        return model
    wrapper = nn.parallel.DistributedDataParallel
    changing = {id(value) for norm in trained_norms(model) for value in norm.buffers()}
    constant = [name for name, value in model.named_buffers() if id(value) not in changing]
    wrapper._set_params_and_buffers_to_ignore_for_model(model, constant)
    return wrapper(model, device_ids=[device] if device.type == "cuda" else None)


def shard(model: Network, device: torch.device) -> None:
    """Divides parameters, gradients and the optimiser's state among the ranks (FSDP2).

    All ranks must hold the same weights.

    Raises:
        ValueError: there is one rank only, or the statistics of a batch norm would differ between the ranks.
    """
    if dist.world_size() == 1:
        raise ValueError("--fsdp divides the model among processes, and this is one; start it with torchrun")
    _refuse_trained_norms(model, "--fsdp", "would differ between the processes")
    mesh = init_device_mesh(device.type, (dist.world_size(),))
    for block in blocks(model):
        # torch 2.11 refuses containers, and timm's networks are containers: divide the backbone that holds it
        fully_shard(model.backbone if isinstance(block, nn.ModuleDict) else block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def trained_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms whose statistics change in training: all but those that :func:`train_mode` leaves alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if not norm.affine or any(p.requires_grad for p in norm.parameters())]


def _refuse_trained_norms(model: Network, flag: str, why: str) -> None:
    if trained_norms(model.backbone):
        raise ValueError(
            f"{flag}: the batch norms of this --backbone are trained, and {why}; leave it out, or take a backbone with "
            "frozen ones"
        )
