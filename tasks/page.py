"""The work of app.py without gradio: answers to requests with their files, and their texts for the page."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from models import Predictor
from models.segmentation import Segmentation
from tasks.limits import LABELS, Limits, part_of
from util.video.own_video import OwnVideo, open_video
from util.video.video_result import RECORD, where_found, write_result
from util.video.visualize import distinct_colours, enlarged, overlay

KEPT_JOBS = 8
EXPECTED = 64  # visitors of whom it is known that a request has been sent; few of them wait (Limits.waiting)
LOOKS_OF_ONE = 2  # steps through frames that one visitor may have in hand: one is painted, one waits
LOOKS, LOOKS_AT_WORK = 12, 2  # of all visitors: in hand, and painted at the same time
FILM, ARCHIVE = "overlay.mp4", "masks.zip"
STOPPING = 60  # seconds that closing waits for the current work; a window of a long video may take as long
LOOKING = 0.7  # share of the network in the whole work
GONE = "this result is no longer there; segment the video again"


class Stopped(Exception):
    """A request was stopped: by its visitor, or because the page ends."""


# takes the share of the work that is done, and the name of the current step
Report = Callable[[float, str], object]


class Job:
    """One answer: the video, the objects that were found in it, and the files to download.

    Attributes:
        expressions, scores, there, seen: the texts; of each the score, whether it means something in the video, and the
            number of frames in which it has a pixel.
        film, archive: files for download, the overlay and a zip of masks.
    """

    def __init__(
        self, folder: Path, video: OwnVideo, segmentation: Segmentation, seen: list[int], held: ExitStack
    ) -> None:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["expressions"]
        self.expressions, self.seen = [entry["text"] for entry in found], seen
        self.scores, self.there = segmentation.scores, segmentation.there
        self.film, self.archive = folder / FILM, folder / ARCHIVE
        self._masks = [folder / entry["masks"] for entry in found]
        self._video, self._held, self._closed = video, held, False
        self._lock = threading.Lock()  # one decoder serves all visitors

    def __len__(self) -> int:
        """Frames."""
        return len(self._video)

    def frame(self, position: int, shown: list[int] | None = None) -> np.ndarray:
        """A frame, enlarged where it is small, with masks painted over, uint8 ``[h, w, 3]``.

        Args:
            position: from 0.
            shown: numbers of expressions, each once; all where it is None.

        Raises:
            ValueError: the job has been closed, or there is no such frame or expression.
        """
        count = len(self.expressions)
        if type(position) is not int or not 0 <= position < len(self):
            raise ValueError(f"there is no such frame; this video has the frames 1 to {len(self)}")
        if shown is None:
            shown = range(count)
        elif not isinstance(shown, list) or len(shown) > count or any(type(e) is not int for e in shown):
            raise ValueError(f"what is painted is a list of at most {count} whole numbers")
        elif len(set(shown)) < len(shown) or any(not 0 <= e < count for e in shown):
            raise ValueError(f"what is painted are numbers from 0 to {count - 1}, each once")
        chosen = sorted(shown)
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
        return overlay(*enlarged(frame, masks), [colours[e] for e in chosen])

    def legend(self) -> str:
        """A table as HTML: colour, expression, score, and in how many frames something was found."""
        rows = []
        colours = distinct_colours(len(self.expressions))
        answers = zip(colours, self.expressions, self.scores, self.there, self.seen, strict=True)
        for colour, expression, score, there, seen in answers:
            found = where_found(there, seen, len(self))
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
        self._stops: dict[str, threading.Event] = {}  # of the visitors with a request at work, or maybe in the queue
        self._served: set[str] = set()  # those with one at work
        self._looks: Counter[str] = Counter()  # steps through frames in hand, of each visitor
        self._at_work = threading.Semaphore(LOOKS_AT_WORK)
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
            path: of the video; None: there is none. Nothing else of a request names a file.
            text: expressions, one per line.
            start, end, every: the part of the video; None or 0: from its first frame, to its last, all of them.
                They are checked here, as all that a request holds.
            report: called with the progress.

        Raises:
            ValueError: the request has a fault, which the message names in the words of the page.
            Stopped: it was stopped.
        """
        expressions, part = self.limits.expressions_of(text), part_of(start, end, every)
        if path is None:
            raise ValueError("choose a video first: upload one, or pick one of the examples")
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path.name} is no longer here; upload it again")
        self.limits.check_file(path)
        folder = self._folder / secrets.token_hex(8)
        with self._lock:
            if self._closed:
                raise Stopped
            stopped = self._stops.setdefault(visitor, threading.Event())
            self._served.add(visitor)

        def go_on(share: float, what: str) -> None:
            if stopped.is_set():
                raise Stopped
            report(share, what)

        job, old = None, []
        try:
            job = self._answer(folder, path, expressions, part, go_on)
        except ValueError as error:
            raise ValueError(_in_words_of_the_page(str(error), folder, path.name)) from error
        finally:
            with self._lock:
                del self._stops[visitor]
                self._served.remove(visitor)
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

    def frame(self, visitor: str, number: int, shown: list[int]) -> np.ndarray:
        """A frame of the last answer to a visitor, as :meth:`Job.frame` gives it.

        A visitor's page asks for one and, while it waits, remembers only the last one that it wants next. So few are
        in hand, and more than these are refused at once: each takes memory, and a thread that the page needs.

        Args:
            number: of the frame, from 1.
            shown: numbers of expressions, from 0.

        Raises:
            ValueError: as there; the answer was deleted; or too many are in hand.
        """
        job = self.job(visitor)
        with self._lock:
            if self._looks[visitor] >= LOOKS_OF_ONE or self._looks.total() >= LOOKS:
                raise ValueError("too many frames are asked for at once; try again")
            self._looks[visitor] += 1
        try:
            with self._at_work:
                return job.frame(number - 1 if type(number) is int else -1, shown)
        finally:
            with self._lock:
                self._looks[visitor] -= 1
                self._looks += Counter()  # forgets who has none

    def expect(self, visitor: str) -> None:
        """Notes that a request of a visitor has been sent: while it waits in the queue, it can be stopped, too."""
        with self._lock:
            if visitor not in self._served:
                self._stops.pop(visitor, None)  # of a request that did not come
                self._stops[visitor] = threading.Event()
                for other in [name for name in self._stops if name not in self._served][:-EXPECTED]:
                    del self._stops[other]

    def stop(self, visitor: str) -> None:
        """Stops the request of a visitor, if there is one: at the next answer or the next painted frames, or where it
        still waits, when its turn comes."""
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
            self._lock.wait_for(lambda: not self._served, STOPPING)
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
            return Job(folder, video, segmentation, seen, stack.pop_all())


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
