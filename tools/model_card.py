"""The model card of exported weights: what a repository on the Hugging Face hub shows of them.

The entries at its head are those of the hub's documentation (docs/hub/model-cards.md and modelcard.md of
github.com/huggingface/hub-docs). The hub has no task of videos and texts that gives masks, so the card names the
nearest one (packages/tasks/src/pipelines.ts of github.com/huggingface/huggingface.js) and says the rest in tags.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import ModelCardData

from datasets import DATA_SETS
from davis2017.averages import ACCURACIES, MEASURES, OTHER
from davis2017.davis_protocol import PROTOCOLS
from models.calibration import Calibration, in_words
from models.predictor import PROBABLE
from util.files.reading import read_json
from util.options.saved import written
from util.run.gaps import beside
from util.weights.checkpoint import BEST, CALIBRATION
from util.weights.history import notice

PAPER = "https://arxiv.org/abs/2511.21139"
REFERFORMER = "https://arxiv.org/abs/2201.00487"
HEAD = ModelCardData(
    license="apache-2.0",
    library_name="proxyformer",
    pipeline_tag="image-segmentation",
    tags=["referring-video-object-segmentation", "video-object-segmentation", "video", "vision-language"],
    language="en",
)
EXAMPLE = "the red object"  # generated videos and films of anything may have one
# options that are not part of a recipe
LEFT_OUT = {"device", "num_workers", "loader_timeout", "rank_timeout", "collective_timeout", "local_rank", "eval"}
LEFT_OUT |= {"dry_run", "save_every", "keep", "preset"}
# names of the main figures, and the keys under which a file of scores has them
WHOLE_VIDEOS = {name: name for name in ("J&F", *MEASURES, *ACCURACIES)}
WHOLE_VIDEOS |= {"J&F against the hardest other object, which should be low": OTHER}
SINGLE_FRAMES = {"mAP": "all_queries mAP", "overall IoU": "overall_iou", "mean IoU": "mean_iou"}
SINGLE_FRAMES |= {f"P@{threshold}": f"precision_at {threshold}" for threshold in ("0.5", "0.7", "0.9")}
SINGLE_FRAMES |= {"boxes, P@0.5": "boxes precision_at 0.5", "boxes, mean IoU": "boxes mean_iou"}


def model_card(
    content: Mapping[str, object], name: str, usual: Mapping[str, object], scored: tuple[str, Mapping] | None = None
) -> str:
    """The card, Markdown with a head of YAML.

    Args:
        content: of the checkpoint, without paths of the machine of the training.
        name: of the repository.
        usual: the options of a training for which no flag was given.
        scored: what the weights were scored on, in words, and the scores of :func:`read_scores`.
    """
    options, version = content["options"], content.get("version")
    version = version if isinstance(version, str) else "before 0.9"
    calibration = Calibration.of(content.get(CALIBRATION))
    ours = options["model"] == "proxyformer"
    network = f"[ProxyFormer]({PAPER})" if ours else f"[ReferFormer]({REFERFORMER})"
    recipe = [_flag(option, value) for option, value in options.items() if _is_told(option, value, usual)]
    data_set = DATA_SETS[options["dataset_file"]].title or options["dataset_file"]
    lines = [
        "---",
        HEAD.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"Referring video object segmentation: given a video and a text, the pixels of what the text means, in every "
        f"frame. A {network} with the backbone `{options['backbone']}`.",
        "",
        notice(content) or f"By its options it was trained on {data_set}, or on other data in the layout of that.",
        "",
        "## Use",
        "",
        "In the folder of the ProxyFormer repository:",
        "",
        "```python",
        "from models import load_predictor",
        "",
        f'predictor = load_predictor("{name}")',
        f'masks, scores = predictor("video.mp4", ["{EXAMPLE}"])',
        "```",
        "",
        "```",
        f'python inference_video.py video.mp4 --text "{EXAMPLE}" --resume {name}',
        "```",
        "",
        f"The file is downloaded once. Of the scores: {in_words(calibration, PROBABLE if calibration else 0)}.",
        "",
        *(_scores(*scored) if scored else []),
        "## Training",
        "",
        *_best(content),
        f"Version {version}. Flags of `main.py` that differ from its defaults:",
        "",
        "```",
        *recipe,
        "```",
        "",
        "## Licence",
        "",
        "Apache-2.0. The data sets have licences of their own.",
        "",
    ]
    return "\n".join(lines)


def _is_told(option: str, value: object, usual: Mapping[str, object]) -> bool:
    return option in usual and value not in (usual[option], None) and option not in LEFT_OUT


def _flag(option: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option}"
    words = map(written, value) if isinstance(value, list | tuple) else [str(value)]
    return shlex.join([f"--{option}", *words])


def read_scores(path: Path) -> Mapping[str, object]:
    """The scores that ``eval_*.py --json`` and ``main.py --eval`` (``scores.json``) write.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has no scores.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--scores {path}: no such file; eval_*.py --json and main.py --eval write one")
    try:
        scores = read_json(path)
    except ValueError as error:
        raise ValueError(f"--scores {path} cannot be read: {error}") from error
    if isinstance(scores, Mapping):  # of the protocols of Ref-DAVIS17 the one that papers report, which is the first
        scores = next((scores[protocol] for protocol in PROTOCOLS if protocol in scores), scores)
    if not any(_figures(scores)):
        raise ValueError(f"--scores {path} has no scores as eval_*.py --json and main.py --eval write them")
    return scores


def _figures(scores: object) -> Iterator[tuple[str, float]]:
    """Names and values of the main figures."""
    for name, place in (WHOLE_VIDEOS | SINGLE_FRAMES).items():
        value = scores
        for key in place.split(" "):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):  # of DAVIS's protocol, which has other statistics besides the mean
            value = value.get("mean")
        if isinstance(value, int | float) and 0 <= value <= 1:
            yield name, value


def _scores(words: str, scores: Mapping) -> list[str]:
    lines = [f"On {words}.{beside(scores)}", "", "| measure | score |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in _figures(scores)]
    return ["## Scores", "", *lines, ""]


def _best(content: Mapping[str, object]) -> list[str]:
    """The best score that a run with ``--eval_every`` has recorded."""
    best, options = content.get(BEST), content["options"]
    if not isinstance(best, int | float):
        return []
    split = options["eval_split"] or "its default split"
    return [f"The best epoch of the run had a score of {best:.3f} on {split} (J&F of videos, mAP of frames).", ""]
