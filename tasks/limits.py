"""The limits of a request to the page of app.py. All that a request names is checked here before anything is made."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import av

from util.video.own_video import OwnVideo
from util.video.video_io import open_film

TEXT, EXPRESSION = 20_000, 1000  # characters of all expressions together, and of one
MOST_SECONDS = MOST_EVERY = 10**6  # of what the fields of the page take
# FFmpeg also reads play lists, which may name any file of this machine and any address.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,ogg,flv,asf"
MOST_PIXELS = 4096 * 2304
MASKS = 60 * 30 * 12  # a minute at 30 frames per second with all expressions; at 360x640 they take 3 GB of TMPDIR
LABELS = {"--start": "From second", "--end": "To second", "--every": "Every Nth frame"}


class Limits:
    """The limits of one request.

    Args:
        megabytes: of the file.
        seconds: of the part of the video that is segmented.
        expressions: how many.
        waiting: requests in the queue.
        masks: frames times expressions; they fill the disk.
    """

    def __init__(
        self,
        megabytes: int = 200,
        seconds: float = 60,
        expressions: int = 12,
        waiting: int = 8,
        masks: int = MASKS,
    ) -> None:
        self.megabytes, self.seconds, self.expressions, self.waiting = megabytes, seconds, expressions, waiting
        self.masks = masks

    def __str__(self) -> str:
        return (
            f"{self.megabytes} MB, {self.seconds:g} seconds and {self.expressions} expressions, and {self.masks} masks "
            "(frames times expressions)"
        )

    def check_file(self, path: Path) -> None:
        """Raises ValueError for a file that is too large or of an unknown kind; decodes nothing."""
        if (size := path.stat().st_size) > self.megabytes * 2**20:
            raise ValueError(f"{path.name} has {size / 2**20:.0f} MB; at most {self.megabytes} are taken")
        try:
            with open_film(path, format_whitelist=CONTAINERS) as container:
                # a film without a codec here is refused with a better message when it is opened
                contexts = filter(None, (stream.codec_context for stream in container.streams.video))
                sizes = [(context.width, context.height) for context in contexts]
        except av.FFmpegError as error:
            raise ValueError(
                f"{path.name} is no video that can be read ({error.strerror}); give an mp4, mov or webm that plays"
            ) from error
        except ValueError as error:  # the user knows the file by its name, not by where the upload lies
            raise ValueError(str(error).replace(str(path), path.name)) from error
        for width, height in sizes:
            _check_pixels(path.name, height, width)

    def check_part(self, name: str, video: OwnVideo, expressions: int) -> None:
        """Raises ValueError where the part of the video is too large, too long, or has too many frames."""
        _check_pixels(name, *video.size)  # the header of a file may contradict its frames
        seconds, frames = video.times[-1], len(video)
        if seconds > self.seconds:
            raise ValueError(
                f"this is {seconds:.1f} seconds of video; at most {self.seconds:g} are taken. Choose a part of it with "
                f"'{LABELS['--start']}' and '{LABELS['--end']}'"
            )
        if frames * expressions > self.masks:
            raise ValueError(
                f"{expressions} expressions in each of {frames} frames are {frames * expressions} masks; at most "
                f"{self.masks} are made. Take fewer frames with '{LABELS['--every']}', or ask fewer expressions"
            )

    def expressions_of(self, text: str | None) -> list[str]:
        """The lines of a text that are not empty, each once, in their order.

        Raises:
            ValueError: there is none, they are too many or too long, or hold characters that are no text.
        """
        text = "" if text is None else text
        if not isinstance(text, str):
            raise ValueError("the expressions are a text, one expression per line")
        if len(text) > TEXT:
            raise ValueError(f"the expressions have {len(text)} characters together; at most {TEXT} are taken")
        lines = dict.fromkeys(" ".join(line.split()) for line in text.splitlines())
        expressions = [line for line in lines if line]
        if not expressions:
            raise ValueError("write what to find in the video, one expression per line, as in: the dog on the left")
        if len(expressions) > self.expressions:
            raise ValueError(f"these are {len(expressions)} expressions; at most {self.expressions} are taken")
        for number, expression in enumerate(expressions, 1):
            if len(expression) > EXPRESSION:
                raise ValueError(
                    f"expression {number} has {len(expression)} characters; at most {EXPRESSION} are taken"
                )
            # control characters, and halves of UTF-16 pairs, which JSON can name but no file can hold
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in expression):
                raise ValueError(f"expression {number} has a character that is no text; write it anew")
        return expressions


def part_of(start: object, end: object, every: object) -> tuple[int, float | None, float | None]:
    """The part of a video that a request names, as :func:`open_video` takes it: ``every``, ``start``, ``end``.

    Args:
        start, end, every: what the fields of the page hold, of any type; None and 0 stand for all.

    Raises:
        ValueError: one of them is no number, or out of range.
    """
    for value, label in ((start, LABELS["--start"]), (end, LABELS["--end"])):
        # NaN fails the comparison, too
        if value is not None and not (type(value) in (int, float) and 0 <= value <= MOST_SECONDS):
            raise ValueError(f"'{label}' is a number of seconds between 0 and {MOST_SECONDS}")
    if every is not None and not (type(every) is int and 0 <= every <= MOST_EVERY):
        raise ValueError(f"'{LABELS['--every']}' is a whole number between 1 and {MOST_EVERY}")
    return every or 1, start or None, end or None


def _check_pixels(name: str, height: int, width: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{name} is {width}x{height} pixels; at most 4096x2304 are taken, so make it smaller")
