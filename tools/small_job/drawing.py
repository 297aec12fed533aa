"""Pictures of the main job in small: contact sheets that fit a screen, and a film."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.ytvos import annotations_root, eval_videos
from util.masks.results import Results, mask_name
from util.video.pictures import read_label_maps
from util.video.sheets import Card, Line, for_sheet, write_sheet
from util.video.visualize import PALETTE, PREDICTED_COLOUR, dashed, overlay, painter, write_video

SHOWN = 6  # cases on a sheet
COLUMNS = 3
WIDTH = 241  # pixels of a picture; with two pictures on a card and three cards side by side a sheet is 1,600 wide
FPS = 4
_GREY, _SAMPLE = np.full((22, 36, 3), 128, np.uint8), np.zeros((22, 36), bool)
_SAMPLE[5:17, 5:31] = True
KEY = [
    ("light fill and line: the prediction", overlay(_GREY, _SAMPLE[None], [PREDICTED_COLOUR])),
    ("dashed line: the ground truth", dashed(_GREY, _SAMPLE)),
]


@dataclass(frozen=True)
class Case:
    """An expression of a held-out video with its masks; T frames.

    Attributes:
        text, kind: the expression, and what it is about.
        score: J&F.
        frames: uint8 ``[T, H, W, 3]``.
        truth, predicted: bool ``[T, H, W]``.
    """

    text: str
    kind: str
    score: float
    frames: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    def picture(self, t: int) -> np.ndarray:
        """A frame with prediction and ground truth, as large as a sheet shows it."""
        frame, (predicted, truth) = for_sheet(self.frames[t], np.stack([self.predicted[t], self.truth[t]]), WIDTH)
        return dashed(overlay(frame, predicted[None], [PREDICTED_COLOUR]), truth)


def draw(scores: dict, results: Path, data: Path, sheet: Path, film: Path) -> None:
    """A contact sheet with the best and the worst case of each kind, and a film of the same cases.

    Args:
        scores: of :func:`tools.small_job.held_out.score`; results: the folder of masks that were scored; data: the set.
    """
    kinds = by_kind(scores)
    chosen = [ranked[place] for place in (0, -1) for ranked in kinds.values()]
    cards, shots = [], []
    for i, case in enumerate(read_cases(scores, results, data, chosen)):
        place = f"{'best' if i < len(kinds) else 'worst'} of {len(kinds[case.kind])}"
        last = len(case.frames) - 1
        moments = [round(last * share / 3) for share in range(4)]
        pictures = [case.picture(t) for t in moments]
        note = f"{case.kind}, {place}: J&F {case.score:.2f} · frames {', '.join(str(t + 1) for t in moments)}"
        cards.append(Card(case.text, note, [Line(pictures[:2]), Line(pictures[2:])]))
        paint = painter([f"{case.text} · J&F {case.score:.2f}"], PALETTE)
        shots.append([paint(frame, mask[None]) for frame, mask in zip(case.frames, case.predicted, strict=True)])
    head = f"Held-out videos: the best and the worst case of each kind of expression. Mean J&F {scores['J&F']:.2f}"
    write_sheet(cards, sheet, len(kinds), [(head, None), *KEY])
    write_video(film, level([frame for shot in shots for frame in shot]), FPS)


def draw_before_after(
    before: dict,
    after: dict,
    before_results: Path,
    after_results: Path,
    data: Path,
    picture: Path,
    chosen_from: Callable[[str], bool],
) -> None:
    """A sheet of cases before and after a training, evenly spaced from the greatest gain in J&F to the least.

    Args:
        before, after: scores of :func:`tools.small_job.held_out.score`, of the masks in the folders of results.
        chosen_from: takes the name of a video; only those are shown for which it is true.
    """
    cases = [case for ranked in by_kind(after).values() for case in ranked if chosen_from(case[0])]

    def gain(case: tuple[str, str]) -> float:
        return scored(after, case)["J&F"] - scored(before, case)["J&F"]

    cases.sort(key=lambda case: (-gain(case), case))
    chosen = spaced(cases, SHOWN)
    pairs = zip(
        read_cases(before, before_results, data, chosen), read_cases(after, after_results, data, chosen), strict=True
    )
    cards = []
    for was, now in pairs:
        moments = [len(now.frames) // 4, len(now.frames) - 1]
        lines = [Line([was.picture(t), now.picture(t)]) for t in moments]
        note = f"{now.kind} · frames {' and '.join(str(t + 1) for t in moments)}"
        cards.append(Card(now.text, note, lines, [f"before: {was.score:.2f}", f"after: {now.score:.2f}"]))
    means = [np.mean([scored(scores, case)["J&F"] for case in cases]) for scores in (before, after)]
    head = [(f"Before and after fine-tuning: J&F of new things is {means[0]:.2f}, then {means[1]:.2f}", None)]
    head += [(f"{len(chosen)} of {len(cases)} expressions, evenly spaced from the greatest gain to the least", None)]
    write_sheet(cards, picture, COLUMNS, [*head, *KEY])


def by_kind(scores: dict) -> dict[str, list[tuple[str, str]]]:
    """Of each kind the expressions that mean an object, from best to worst: names of video and expression."""
    found: dict[str, list[tuple[str, str]]] = {}
    for vid, video in scores["videos"].items():
        for exp_id, e in video.items():
            if e.get("target", True):
                found.setdefault(e["kind"], []).append((vid, exp_id))
    return {kind: sorted(found[kind], key=lambda case: (-scored(scores, case)["J&F"], case)) for kind in sorted(found)}


def scored(scores: dict, case: tuple[str, str]) -> dict:
    """The scores of one expression."""
    vid, exp_id = case
    return scores["videos"][vid][exp_id]


def spaced(cases: Sequence, count: int) -> list:
    """So many of the cases, the first and the last among them, at equal distances."""
    places = np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def read_cases(scores: dict, results: Path, data: Path, chosen: Sequence[tuple[str, str]]) -> Iterator[Case]:
    """The frames and masks of some expressions: names of video and expression."""
    by_id = {video.video_id: video for video in eval_videos(data, "valid", 0)}
    with Results(results) as masks:
        for vid, exp_id in chosen:
            video, e = by_id[vid], scored(scores, (vid, exp_id))
            frames = video.read(slice(None)).permute(0, 2, 3, 1).numpy()
            paths = [annotations_root(data, "valid") / vid / f"{name}.png" for name in video.frame_names]
            labels = read_label_maps(paths, frames.shape[1:3])[:, 0].numpy()
            predicted = [np.asarray(masks.image(mask_name(vid, exp_id, name))) > 0 for name in video.frame_names]
            yield Case(e["exp"], e["kind"], e["J&F"], frames, labels == int(e["obj_id"]), np.stack(predicted))


def level(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures of one width, with white above those that are less high than the others."""
    highest = max(map(len, pictures))
    return [np.pad(p, ((highest - len(p), 0), (0, 0), (0, 0)), constant_values=255) for p in pictures]
