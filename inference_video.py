"""Finds in a video of your own what you describe: paints it, and writes its masks.

    python inference_video.py video.mp4 --text "the dog on the left" --resume output/run/checkpoint.pth

The video is a film (mp4, mov, webm …), a folder of frames or an image. docs/inference.md describes the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import models
from models import Predictor
from opts import PREDICTOR_OPTIONS, add_predictor_options, add_text_encoder
from util.files.folders import new_result
from util.options.inference import add_not_there
from util.run import cli, dist
from util.run.counts import counted
from util.run.log import progress_bar
from util.run.parser import CommandParser
from util.samples.text import is_empty
from util.video.own_video import FOLDER_FPS, open_video
from util.video.video_result import MASK_FORMS, PIECES, RECORD, where_found, write_result

COMMON = ("text", "resume", "output_dir", "overwrite", "masks", "every", "start", "end", "not_there", "amp", "device")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("inference_video.py", __doc__, COMMON)
    parser.add_argument("video", metavar="VIDEO", help="a film, a folder of frames (in natural order), or an image")
    parser.add_argument(
        "--text", action="append", required=True, help="what to look for; give it again for each further object"
    )
    add_predictor_options(parser)
    add_text_encoder(parser)
    add_not_there(parser, None)
    parser.add_argument("--output_dir", help="folder for the result; default: output/videos/ and the name of VIDEO")
    parser.add_argument("--overwrite", action="store_true", help="replace a result that is in --output_dir")
    parser.add_argument(
        "--masks", choices=MASK_FORMS, default="png", help=f"default: png; rle: COCO's run lengths, in {RECORD}"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one frame of N")
    for flag, side in (("--start", "from here on"), ("--end", "up to here, exclusive")):
        parser.add_argument(
            flag, type=float, metavar="SECONDS", help=f"take what is shown {side}; in a folder: number of a frame"
        )
    parser.add_argument("--fps", type=float, help=f"frames per second of a folder; default: {FOLDER_FPS}")
    return parser.parse_args(argv)


def load(asked: argparse.Namespace, device: torch.device) -> Predictor:
    """The predictor of a checkpoint with the options given on the command line.

    Raises ValueError where it cannot read one of the texts.
    """
    how = {name: getattr(asked, name) for name in PREDICTOR_OPTIONS}
    predictor = models.load_predictor(asked.resume, device, **how)
    predictor.announce((f"--text {text[:30]!r}", text) for text in asked.text)  # before the video is read
    return predictor


def infer(asked: argparse.Namespace, device: torch.device) -> None:
    """Segments one video and writes the result.

    Raises:
        ValueError, OSError: a file or option is at fault; the message names it and the mend.
    """
    if dist.world_size() > 1:
        raise ValueError("inference_video.py is one process; start it without torchrun")
    for text in asked.text:
        if is_empty(text):
            raise ValueError(f'--text "{text}" is empty: say what to look for, such as --text "the dog on the left"')
        if text != text.encode("utf-8", "ignore").decode("utf-8"):
            raise ValueError(f"--text {text!r} is not in UTF-8; set the terminal to it, or use letters that need none")
    path = Path(asked.video)
    output_dir = Path(asked.output_dir or Path("output", "videos", path.resolve().name if path.is_dir() else path.stem))
    if path.is_dir() and output_dir.resolve() == path.resolve():
        raise ValueError(f"--output_dir {output_dir} is the folder of the frames; choose another")
    with (
        open_video(path, asked.every, asked.start, asked.end, asked.fps) as video,
        new_result(output_dir, PIECES, asked.overwrite) as folder,
    ):
        print(f"{path}: {counted(len(video), 'frames')}, {video.size[1]}x{video.size[0]}, {video.times[-1]:.2f} s")
        predictor = load(asked, device)
        with progress_bar(total=len(video), desc="segment", unit="frame") as bar:
            segmentation = predictor.segment(video, asked.text, seen=bar.update)
        seen = write_result(folder, video, asked.text, segmentation, asked.masks)
        found = zip(asked.text, segmentation.scores, segmentation.there, seen, strict=True)
        for text, score, there, count in found:
            print(f"{score:.2f}  {text}: {where_found(there, count, len(video))}")
        print(predictor.scores_mean)
        if video.damaged:
            print(f"{path}: {counted(video.damaged, 'damaged frames')}; the frame before stands in for each")
    for piece in PIECES:
        if (output_dir / piece).exists():
            print(output_dir / piece)


def main() -> None:
    asked = parse_args()
    with dist.joined(asked.device) as device:
        infer(asked, device)


if __name__ == "__main__":
    cli.run(main)
