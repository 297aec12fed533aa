"""Whether a run of main.py could start with these options: checked by the scripts before set-up installs anything.

    python scripts/check_options.py SCRIPT [options of main.py]

Messages begin with the name of SCRIPT. It takes the standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opts import given_options, parse_train_args
from util.options.places import require_data, require_weights
from util.options.start import require_start
from util.run.cli import run


def main() -> None:
    del sys.argv[0]
    args = parse_train_args()
    goes_on = args.resume == "auto" and any(Path(args.output_dir).glob("checkpoint*.pth"))
    require_data(args, given_options() if args.eval or goes_on else None)
    require_weights(args)
    if not (args.eval or goes_on):
        require_start(args)


if __name__ == "__main__":
    run(main)
