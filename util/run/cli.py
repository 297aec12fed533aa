"""The end of every entry script: a user's mistake gives one line on stderr and exit code 2, without a traceback.

Exit code 3: the work is done, except for items that were left out (:mod:`util.run.gaps`).
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from util.run.interrupt import REQUEUE, Interrupted

# environment variable with the path of a file, to which a run writes for its shell script how it ended
STOPPED_MARK = "PROXYFORMER_STOPPED"
INCOMPLETE = 3
UNREAD = 128 + signal.SIGPIPE  # as a shell tells of programs that the signal ends
LISTED_PROBLEMS = 5
LONGEST_LINE = 4000  # characters
USER_ERRORS = (ValueError, OSError, FloatingPointError)
MEMORY_MEND = (
    "memory does not suffice; lower --window, --eval_size or --max_size at inference, --batch_size, --num_frames, "
    "--max_size or --expressions_per_clip in training"
)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the machine or a GPU ran out; PyTorch raises several types."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def cause(error: Exception) -> str:
    """The first line of an error's message; the name of its kind where it has none, as ``MemoryError()``."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run(main: Callable[[], int | None]) -> None:
    """Calls ``main`` and exits with what it returns (None is 0).

    The errors that this project raises for bad input carry the mend in their message; they are printed without a
    traceback. Other errors are faults of the project and keep their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file may hold texts that no terminal can show
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
        sys.stdout.flush()
        if code == INCOMPLETE:
            _mark("incomplete")
        sys.exit(code)
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(UNREAD)
        _refuse(error)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        _mark("stopped")
        sys.exit(REQUEUE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if lacks_memory(error):
            _refuse(MEMORY_MEND)
        _mark("failed")
        raise


def _nobody_reads() -> bool:
    """Whether the reader of what is printed, such as ``head``, has ended; what is still to be printed is then lost."""
    printed = select.poll()
    printed.register(sys.stdout.fileno(), 0)
    if not printed.poll(0):  # it tells of errors alone
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _mark(how: str) -> None:
    """Tells the shell script that started torchrun how the run ended: torchrun turns every exit code into 1.

    The first rank that ends says it. Where one has failed, torchrun stops the others, and they say that they were
    stopped; so do those that fail because another one was stopped.
    """
    if not (mark := os.environ.get(STOPPED_MARK)):
        return
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # processes that are started again write anew
    path = Path(mark)
    if not path.is_file() or path.read_text().split()[1:] != [attempt]:
        path.write_text(f"{how} {attempt}\n")


def _refuse(why: object) -> NoReturn:
    _mark("failed")
    print(f"{Path(sys.argv[0]).name}: error: {one_line(why)}", file=sys.stderr)
    sys.exit(2)


def one_line(message: object) -> str:
    """A message as one line, not too long, that cannot steer a terminal: names from files may hold any character."""
    text = str(message)
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} … {text[-LONGEST_LINE // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def summarise(problems: list[str]) -> str:
    """The first problems and how many there are, as one line."""
    more = len(problems) - LISTED_PROBLEMS
    return "; ".join(problems[:LISTED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
