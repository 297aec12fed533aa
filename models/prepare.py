"""What the options of training do to a built model: freezing, recomputing, compiling, dividing among processes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from models.fast.recompute import recompute
from models.proxyformer import ProxyFormer
from util.run import dist

RECOMPILE_LIMIT = 256


def blocks(model: ProxyFormer) -> list[nn.Module]:
    """The parts of the encoders and the CMIE that are run one after the other, most of the model's weight and work."""
    return [*model.backbone.blocks(), *model.text_encoder.model.encoder.layer, *model.cmie.stages]


def freeze(model: ProxyFormer, patterns: list[str]) -> dict[str, int]:
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


def train_mode(model: ProxyFormer) -> None:
    """Training mode but for what is frozen as a whole: there statistics stay as they are and nothing is dropped."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def recompute_activations(model: ProxyFormer) -> None:
    """Saves the memory of what is within the blocks of the backbone and the stages of the CMIE, for a second forward
    pass through them.

    Raises:
        ValueError: that pass would count the clips twice in the statistics of a batch norm.
    """
    _refuse_trained_norms(model, "--activation_checkpointing", "would count every clip twice")
    for block in (*model.backbone.blocks(), *model.cmie.stages):
        recompute(block)


def compile_blocks(model: ProxyFormer, backend: str) -> None:
    """Has ``torch.compile`` translate each block when it is first run; the names of the parameters stay as they are.

    Blocks rather than the whole, because equal ones are translated once.

    Raises:
        ValueError: there is no such backend, or it does not work here.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"--compile {backend}: there is no such backend; choose one of {', '.join(known)}")
    try:  # something small, so that a missing compiler is known before data is read
        torch.compile(torch.sin, backend=backend)(torch.ones(2, device=next(model.parameters()).device))
    except TorchDynamoException as error:
        why = " ".join(str(error).strip().partition("\n\n")[0].splitlines())
        raise ValueError(
            f"--compile {backend} does not work here: {why} (a CPU takes a C++ compiler, a GPU the package triton); "
            "or leave it out"
        ) from error
    # all blocks share the limit: of a Video Swin thirteen kinds, each anew for new shapes
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # it would cut them where DistributedDataParallel's buckets end, which serves a model that is compiled as a whole
    torch._dynamo.config.optimize_ddp = False
    for block in blocks(model):
        block.compile(backend=backend)


def replicate(model: ProxyFormer, device: torch.device) -> nn.Module:
    """The model so that the gradients of the ranks are averaged; without ranks the model itself."""
    if not dist.active():
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def shard(model: ProxyFormer, device: torch.device) -> None:
    """Divides parameters, gradients and the optimiser's state among the ranks (FSDP2); rank 0 has the valid weights.

    Raises:
        ValueError: there is one rank only, or the statistics of a batch norm would differ between the ranks.
    """
    if dist.world_size() == 1:
        raise ValueError("--fsdp divides the model among processes, and this is one; start it with torchrun")
    _refuse_trained_norms(model, "--fsdp", "would differ between the processes")
    dist.copy_from_main(model.state_dict())
    mesh = init_device_mesh(device.type, (dist.world_size(),))
    for block in blocks(model):
        # torch 2.11 refuses containers, also timm's networks, which have a forward pass: then what holds it
        fully_shard(model.backbone if isinstance(block, nn.ModuleDict) else block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _refuse_trained_norms(model: ProxyFormer, flag: str, why: str) -> None:
    norms = (module for module in model.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    if any(norm.weight is None or norm.weight.requires_grad for norm in norms):
        raise ValueError(
            f"{flag}: the batch norms of this --backbone are trained, and {why}; leave it out, or take a backbone with "
            "frozen ones"
        )
