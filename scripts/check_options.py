"""Whether the program of a script could start with these options: checked before set-up installs anything.

    python scripts/check_options.py SCRIPT [options of the program]

The program is that of app.sh, demo.sh or dist_test_davis.sh, else main.py. A message on a folder or a file begins with
the name of SCRIPT; one on an option that does not exist, or has a wrong value, with that of the program. It takes the
standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opts import (
    add_predictor_options,
    add_text_encoder,
    given_options,
    inference_parser,
    parse_inference_args,
    parse_train_args,
)
from tools.small_job.options import demo_args
from tools.small_job.stages import ROOT
from util.options.inference import add_not_there
from util.options.places import require_data, require_weights
from util.options.start import require_start
from util.run.cli import run
from util.run.parser import CommandParser


def page_parser() -> argparse.ArgumentParser:
    """A parser that knows the options of app.py, which itself needs packages to be imported."""
    parser = CommandParser("app.py", "", common=("resume",))
    add_predictor_options(parser)
    add_text_encoder(parser)
    add_not_there(parser, None)
    _add_own_options(parser)
    return parser


def davis_parser() -> argparse.ArgumentParser:
    """The same of inference_davis.py."""
    parser = inference_parser("inference_davis.py", "", output="", own="davis_path")
    _add_own_options(parser)
    return parser


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    """Adds those that the program itself adds; each takes one value, which is not checked here."""
    for flag in re.findall(r'parser\.add_argument\(\s*"(--\w+)"', (ROOT / parser.prog).read_text(encoding="utf-8")):
        parser.add_argument(flag, action="append")


def main() -> None:
    script = sys.argv[1]
    del sys.argv[0]
    if script == "app.sh":
        page_parser().parse_args()
    elif script == "demo.sh":
        demo_args()
    elif script == "dist_test_davis.sh":
        parse_inference_args(davis_parser())
    else:
        check_main()


def check_main() -> None:
    args = parse_train_args()
    saved = any(Path(args.output_dir).glob("checkpoint*.pth")) if args.resume == "auto" else bool(args.resume)
    require_data(args, given_options() if saved else None)
    require_weights(args, new=not saved)
    if not saved:
        require_start(args)


if __name__ == "__main__":
    run(main)
