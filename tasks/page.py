"""The work of app.py without gradio: limits of requests, answers with their files, and their texts for the page."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from torch import Tensor

from models import Predictor
from util.video.own_video import OwnVideo, open_video
from util.video.video_io import open_film
from util.video.video_result import RECORD, write_result
from util.video.visualize import distinct_colours, overlay

KEPT_JOBS = 8
FILM, ARCHIVE = "overlay.mp4", "masks.zip"
# FFmpeg also reads play lists, which may name any file of this machine and any address.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,ogg,flv,asf"
MOST_PIXELS = 4096 * 2304
MASKS = 60 * 30 * 12  # a minute at 30 frames per second with all expressions; at 360x640 they take 3 GB of TMPDIR
STOPPING = 60  # seconds that closing waits for the current work; a window of a long video may take as long
LOOKING = 0.7  # share of the network in the whole work
GONE = "this result is no longer there; segment the video again"
LABELS = {"--start": "From second", "--end": "To second", "--every": "Every Nth frame"}

# takes the share of the work that is done, and the name of the current step
Report = Callable[[float, str], object]


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
        """The lines of a text that are not empty, each once, in their order; ValueError for none or too many."""
        lines = dict.fromkeys(" ".join(line.split()) for line in (text or "").splitlines())
        expressions = [line for line in lines if line]
        if not expressions:
            raise ValueError("write what to find in the video, one expression per line, as in: the dog on the left")
        if len(expressions) > self.expressions:
            raise ValueError(f"these are {len(expressions)} expressions; at most {self.expressions} are taken")
        return expressions


def _check_pixels(name: str, height: int, width: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{name} is {width}x{height} pixels; at most 4096x2304 are taken, so make it smaller")


class Job:
    """One answer: the video, the objects that were found in it, and the files to download.

    Attributes:
        expressions, scores, seen: the texts; the score of each; the number of frames in which it has a pixel.
        film, archive: files for download, the overlay and a zip of masks.
    """

    def __init__(self, folder: Path, video: OwnVideo, scores: list[float], seen: list[int], held: ExitStack) -> None:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["expressions"]
        self.expressions, self.scores, self.seen = [entry["text"] for entry in found], scores, seen
        self.film, self.archive = folder / FILM, folder / ARCHIVE
        self._masks = [folder / entry["masks"] for entry in found]
        self._video, self._held, self._closed = video, held, False
        self._lock = threading.Lock()  # one decoder serves all visitors

    def __len__(self) -> int:
        """Frames."""
        return len(self._video)

    def frame(self, position: int, shown: Sequence[int] | None = None) -> np.ndarray:
        """A frame with masks painted over, uint8 ``[H, W, 3]``.

        Args:
            position: from 0.
            shown: numbers of expressions; all where it is None.

        Raises:
            ValueError: the job has been closed.
        """
        chosen = range(len(self.expressions)) if shown is None else sorted(shown)
        colours = distinct_colours(len(self.expressions))
        name = f"{self._video.names[position]}.png"
        with self._lock:
            if self._closed:
                raise ValueError(GONE)
            frame = self._video.read([position])[0].permute(1, 2, 0).numpy()
            masks = np.zeros((len(chosen), *frame.shape[:2]), bool)
            for mask, e in zip(masks, chosen, strict=True):
                with Image.open(self._masks[e] / name) as image:
                    mask[:] = np.asarray(image) > 0
        return overlay(frame, masks, [colours[e] for e in chosen])

    def legend(self) -> str:
        """A table as HTML: colour, expression, score, and in how many frames something was found."""
        rows = []
        colours = distinct_colours(len(self.expressions))
        for colour, expression, score, seen in zip(colours, self.expressions, self.scores, self.seen, strict=True):
            found = f"in {seen} of {len(self)} frames" if seen else "in no frame"
            rows.append(
                f'<tr><td><span style="background: rgb{colour}"></span></td><td>{html.escape(expression)}</td>'
                f"<td>{score:.2f}</td><td>{found}</td></tr>"
            )
        head = "<tr><th></th><th>expression</th><th>score</th><th>found</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"

    def close(self) -> None:
        """Deletes its files."""
        with self._lock:
            self._closed = True
            self._held.close()


class Painted:
    """A video that reports how much of it has been read for painting the masks over it."""

    def __init__(self, video: OwnVideo, report: Report) -> None:
        self._video, self._report = video, report

    def __len__(self) -> int:
        return len(self._video)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._video, name)

    def read(self, positions: Sequence[int]) -> Tensor:
        frames = self._video.read(positions)
        self._report(LOOKING + (1 - LOOKING) * (max(positions) + 1) / len(self), "painting")
        return frames


class Desk:
    """Answers requests, and keeps the last answers of the last few visitors.

    Args:
        predictor: computes the answers.
        folder: takes the files; is made.
        limits: of one request.
    """

    def __init__(self, predictor: Predictor, folder: Path, limits: Limits) -> None:
        self.predictor, self.limits, self._folder = predictor, limits, folder
        folder.mkdir()
        self._jobs: dict[str, Job] = {}
        self._stops: dict[str, threading.Event] = {}  # of the visitors with a request at work or in the queue
        self._closed = False
        self._lock = threading.Condition()  # guards all of these; notified when a request is done

    def segment(
        self,
        visitor: str,
        path: str | Path | None,
        text: str | None,
        *,
        start: float | None = None,
        end: float | None = None,
        every: int | None = None,
        report: Report = lambda share, what: None,
    ) -> Job:
        """Answers a request.

        Args:
            visitor: name of the visitor, whose last answer is replaced.
            path: of the video; None: there is none.
            text: expressions, one per line.
            start, end, every: the part of the video; None or 0: from its first frame, to its last, all of them.
            report: called with the progress.

        Raises:
            ValueError: the request has a fault, which the message names in the words of the page; or it was stopped.
        """
        expressions = self.limits.expressions_of(text)
        if path is None:
            raise ValueError("choose a video first: upload one, or pick one of the examples")
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path.name} is no longer here; upload it again")
        self.limits.check_file(path)
        folder, stopped = self._folder / secrets.token_hex(8), threading.Event()
        with self._lock:
            if self._closed:
                raise ValueError("stopped")
            self._stops[visitor] = stopped

        def go_on(share: float, what: str) -> None:
            if stopped.is_set():
                raise ValueError("stopped")
            report(share, what)

        job, old = None, []
        try:
            job = self._answer(folder, path, expressions, (int(every or 1), start or None, end or None), go_on)
        except ValueError as error:
            raise ValueError(_in_words_of_the_page(str(error), folder, path.name)) from error
        finally:
            with self._lock:
                del self._stops[visitor]
                if job is not None:
                    old = [self._jobs.pop(visitor, None)]
                    self._jobs[visitor] = job
                    old += [self._jobs.pop(other) for other in list(self._jobs)[:-KEPT_JOBS]]
                self._lock.notify_all()
        for other in filter(None, old):
            other.close()
        return job

    def job(self, visitor: str) -> Job:
        """The last answer to a visitor; ValueError where it was deleted."""
        with self._lock:
            job = self._jobs.get(visitor)
        if job is None:
            raise ValueError(GONE)
        return job

    def stop(self, visitor: str) -> None:
        """Stops the current work for a visitor, if there is any, at the next answer or the next painted frames."""
        with self._lock:
            if stopped := self._stops.get(visitor):
                stopped.set()

    def leave(self, visitor: str) -> None:
        """Stops the current work for a visitor, and deletes the answer."""
        self.stop(visitor)
        with self._lock:
            job = self._jobs.pop(visitor, None)
        if job is not None:
            job.close()

    def close(self) -> None:
        """Stops the work for all visitors, waits for its end, deletes the answers, and takes no further request."""
        with self._lock:
            self._closed = True
            for stopped in self._stops.values():
                stopped.set()
            self._lock.wait_for(lambda: not self._stops, STOPPING)
            visitors = list(self._jobs)
        for visitor in visitors:
            self.leave(visitor)

    def _answer(self, folder: Path, path: Path, expressions: list[str], part: tuple, report: Report) -> Job:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir()
            own = folder / f"video{path.suffix}"
            try:
                os.link(path, own)  # the upload may be deleted while a visitor still looks at the answer
            except OSError:
                shutil.copyfile(path, own)
            video = stack.enter_context(open_video(own, *part))
            if video.is_image:
                raise ValueError(f"{path.name} is an image; give a video (inference_video.py takes images, too)")
            self.limits.check_part(path.name, video, len(expressions))
            video.path = Path(path.name)  # its name in the files for download
            done = 0

            def looked(frames: int) -> None:
                nonlocal done
                done += frames
                report(LOOKING * done / len(video), "looking")

            looked(0)
            segmentation = self.predictor.segment(video, expressions, seen=looked)
            seen = write_result(folder, Painted(video, report), expressions, segmentation, "png")
            _pack(folder)
            return Job(folder, video, segmentation.scores, seen, stack.pop_all())


def _in_words_of_the_page(message: str, folder: Path, name: str) -> str:
    """An error message that names the user's file and the fields of the page instead of paths and flags."""
    message = re.sub(rf"{re.escape(str(folder))}/video[.\w]*", lambda _: name, message)
    for flag, label in LABELS.items():
        message = message.replace(flag, f"'{label}'")
    return message


def _pack(folder: Path) -> None:
    """Zips the masks and the record of a result."""
    with zipfile.ZipFile(folder / ARCHIVE, "w") as packed:
        for path in [folder / RECORD, *sorted((folder / "masks").rglob("*.png"))]:
            packed.write(path, path.relative_to(folder))


class LocalPage:
    """Wraps an ASGI application, so that its pages name no other site and the browser loads nothing from one.

    gradio's page has a few addresses of gradio's own site, for previews and as examples; these become empty. The policy
    forbids the scripts of the page to load anything else.
    """

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
    ADDRESS = re.compile(rb'"https?://([^/"\\]*)[^"\\]*"')

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers one request."""
        headers_in = dict(scope.get("headers", ()))
        own = {headers_in.get(name) for name in (b"host", b"x-forwarded-host")}
        page: list[bytes] = []
        start: dict = {}

        async def pass_on(message: dict) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
                if not any(kind.startswith(b"text/html") for kind in kinds):
                    await send(message)
                else:
                    start = message
            elif message["type"] == "http.response.body" and start:
                page.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = self.ADDRESS.sub(lambda found: found[0] if found[1] in own else b'""', b"".join(page))
                anew = (b"content-length", b"content-security-policy")
                headers = [(name, value) for name, value in start["headers"] if name.lower() not in anew]
                # an answer to HEAD has no body, but keeps its length
                if scope["method"] != "HEAD":
                    headers.append((b"content-length", str(len(body)).encode()))
                await send(start | {"headers": [*headers, (b"content-security-policy", self.POLICY)]})
                await send(message | {"body": body})
            else:
                await send(message)

        await self.app(scope, receive, pass_on)
