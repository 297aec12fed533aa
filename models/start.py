"""The weights that a new model starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.earlier import current_names
from models.network import Network
from models.published import is_published, parameters, starting_weights
from models.referformer import ReferFormer
from util.run import dist
from util.weights import checkpoint
from util.weights.names import unwrapped

# what --pretrained_weights may leave out, because its shape depends on the data set
REPLACED_HEADS = ("reference_head.classes.", "class_embed.")


def by_part(origins: Mapping[str, str]) -> dict[str, str]:
    """The origin of each module, from those of its parameters by name."""
    found: dict[str, set[str]] = {}
    for name, origin in origins.items():
        found.setdefault(name.partition(".")[0], set()).add(origin)
    parts = {}
    for name, origin in origins.items():
        part, _, inside = name.partition(".")
        parts[part if len(found[part]) == 1 else f"{part}.{inside.partition('.')[0]}"] = origin
    return parts


def load_pretrained_model(model: Network, path: str | Path) -> set[str]:
    """Loads the weights of a checkpoint, or of a published file of ReferFormer, into a model that may have other
    classes. A ProxyFormer takes only some parts of a ReferFormer (:func:`models.published.starting_weights`).

    The class head (:data:`REPLACED_HEADS`) keeps its new values where its shape differs, which is printed. Counters of
    trained batch norms are dropped where the batch norms of this model are frozen.

    Returns:
        Names of the parameters that were taken from the file.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or damaged, or anything else does not fit.
    """
    source, fresh, content = f"--pretrained_weights {path}", model.state_dict(), checkpoint.read(path)
    if not is_published(content):
        content = checkpoint.checked(content, path)
        state = current_names(unwrapped(checkpoint.best_weights(content), fresh, source), source)
        state = {k: v for k, v in state.items() if k in fresh or not k.endswith("num_batches_tracked")}
    elif isinstance(model, ReferFormer):
        state = parameters(content, model.backbone, source)
    else:
        state = starting_weights(content, fresh, model.backbone, source)
    for name in (name for name in state if name.startswith(REPLACED_HEADS)):
        if name in fresh and state[name].shape != fresh[name].shape:
            if dist.is_main():
                print(
                    f"--pretrained_weights: {name} starts anew, for {len(fresh[name])} classes, not {len(state[name])}"
                )
            state[name] = fresh[name]
    taken = {name for name, value in fresh.items() if state.get(name) is not value}
    checkpoint.load_weights(model, state, source)
    return taken
