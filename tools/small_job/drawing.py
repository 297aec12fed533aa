"""Pictures of the main job in small: a contact sheet and a film of cases of each kind, from best to worst."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.ytvos import annotations_root, eval_videos
from util.masks.results import Results, mask_name
from util.video.pictures import read_label_maps
from util.video.visualize import PALETTE, SheetRow, contact_sheet, overlay, titled, write_video

SHEET_ROWS = 9
NO_OBJECT = -1  # a label that no pixel has


def draw(scores: dict, results: Path, data: Path, sheet: Path, film: Path) -> None:
    """A contact sheet with cases of each kind from best to worst, and a video of the same cases."""
    chosen = choose(scores)
    by_id = {video.video_id: video for video in eval_videos(data, "valid", 0)}
    rows, frames = [], []
    with Results(results) as masks:
        for vid, exp_id in chosen:
            video, case = by_id[vid], scores["videos"][vid][exp_id]
            images = video.read(slice(None)).permute(0, 2, 3, 1).numpy()
            paths = [annotations_root(data, "valid") / vid / f"{name}.png" for name in video.frame_names]
            labels = read_label_maps(paths, images.shape[1:3])[:, 0].numpy()
            predicted = [np.asarray(masks.image(mask_name(vid, exp_id, name))) > 0 for name in video.frame_names]
            every_other = slice(None, None, 2)
            rows.append(
                SheetRow(
                    caption=case["exp"],
                    note=f"{case['kind']} · J&F {case['J&F']:.2f} · {vid}",
                    frames=list(images[every_other]),
                    truth=labels[every_other] == int(case["obj_id"] or NO_OBJECT),
                    predicted=np.stack(predicted)[every_other],
                    frame_ids=video.frame_names[every_other],
                )
            )
            frames += [
                titled(overlay(i, m[None], PALETTE), case["exp"]) for i, m in zip(images, predicted, strict=True)
            ]
    contact_sheet(rows, sheet)
    write_video(film, frames, fps=4)


def choose(scores: dict) -> list[tuple[str, str]]:
    """Cases of each kind, evenly spaced from the best to the worst, so that the sample is fair."""
    cases = [
        (e["kind"], -e["J&F"], vid, exp_id) for vid, video in scores["videos"].items() for exp_id, e in video.items()
    ]
    chosen = []
    kinds = sorted({kind for kind, *_ in cases})
    for kind in kinds:
        ranked = sorted(case for case in cases if case[0] == kind)
        picks = np.linspace(0, len(ranked) - 1, SHEET_ROWS // len(kinds)).round().astype(int)
        chosen += [ranked[i][2:] for i in picks]
    return chosen
