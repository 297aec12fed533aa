"""How every entry script ends: user mistakes as one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from util.interrupt import REQUEUE, Interrupted

# names a file in which a run that was asked to stop, and saved, leaves a word for who started it
STOPPED_MARK = "PROXYFORMER_STOPPED"
USER_ERRORS = (ValueError, OSError, FloatingPointError)


def run(main: Callable[[], int | None]) -> None:
    """Calls ``main`` and exits with what it returns (None is 0).

    The errors that this project raises for bad input carry the mend in their message; they are printed without a
    traceback. Anything else is our own fault and keeps its traceback.
    """
    try:
        sys.exit(main() or 0)
    except USER_ERRORS as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        if mark := os.environ.get(STOPPED_MARK):  # torchrun turns every code into 1
            Path(mark).write_text("stopped\n")
        sys.exit(REQUEUE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
