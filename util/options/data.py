"""Options of the training data: which, and how clips are made of it."""

from __future__ import annotations

import argparse

from util.options.saved import KINDS
from util.options.types import below_one, mixing_weight, positive_int

LONG_TEXT_HELP = "texts of too many tokens: read their beginning, or refuse them"


def add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset_file",
        **KINDS["dataset_file"].argument(),
        default="ytvos",
        help="what to train on, or with --eval to score; all: refcoco, refcoco+ and refcocog; joint: these three and "
        "ytvos",
    )
    group.add_argument("--ytvos_path", default="data/ref-youtube-vos", help="folder of Ref-YouTube-VOS")
    group.add_argument("--annotations", metavar="DIR", help="ytvos: masks of valid; default: valid/Annotations")
    group.add_argument("--expressions", metavar="FILE", help='ytvos: list of valid with the "obj_id" of expressions')
    group.add_argument("--davis_path", default="data/ref-davis")
    group.add_argument("--a2d_path", default="data/a2d_sentences")
    group.add_argument("--jhmdb_path", default="data/jhmdb_sentences", help="for evaluation only")
    group.add_argument("--mevis_path", default="data/mevis", help="of mevis and mevis_v2, its version 2")
    group.add_argument("--long_rvos_path", default="data/long_rvos")
    group.add_argument("--coco_path", default="data/coco", help="holds train2014/ and the converted RefCOCO sets")
    group.add_argument(
        "--mix",
        type=mixing_weight,
        nargs="+",
        metavar="NAME=WEIGHT",
        help="how often an epoch takes a data set's clips; 0.5: half of them, 2: all twice; default: 1",
    )
    group.add_argument(
        "--holdout", **KINDS["holdout"].argument(), default=0, help="training videos kept out for local scoring"
    )
    group.add_argument(
        "--num_frames", **KINDS["num_frames"].argument(), default=5, help="frames of a training clip (T)"
    )
    group.add_argument(
        "--expressions_per_clip", type=positive_int, default=1, help="expressions that share one encoded clip"
    )
    group.add_argument("--long_text", **KINDS["long_text"].argument(), default="shorten", help=LONG_TEXT_HELP)
    group.add_argument(
        "--bad_sample",
        choices=("fail", "skip"),
        default="fail",
        help="clips with a missing or damaged file: fail ends the run; skip takes another clip and names the file",
    )
    group.add_argument(
        "--train_sizes",
        type=positive_int,
        nargs="+",
        default=[288, 320, 352, 392, 416, 448, 480, 512],
        help="short sides of training frames",
    )
    group.add_argument("--train_max_size", type=positive_int, help="limit of the long side; default: --max_size")
    group.add_argument(
        "--crop_sizes", type=positive_int, nargs="+", help="short sides of cropped frames; default: --train_sizes"
    )
    group.add_argument(
        "--absent_object",
        choices=("replace", "keep"),
        default="keep",
        help="clips that do not show their object: keep trains it as absent; replace takes another clip (all presets)",
    )
    group.add_argument(
        "--absent",
        type=below_one,
        default=0.0,
        metavar="SHARE",
        help="share of expressions that are replaced by one that means nothing in the video, where such are known",
    )
    group.add_argument("--eval_size", **KINDS["eval_size"].argument(), default=360, help="short side at inference")
    group.add_argument("--max_size", **KINDS["max_size"].argument(), default=640, help="limit of the long side")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True)
    group.add_argument("--random_crop", action=argparse.BooleanOptionalAction, default=True)
    group.add_argument("--photometric", action=argparse.BooleanOptionalAction, default=True)
