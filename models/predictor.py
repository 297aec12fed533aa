"""A video and any number of expressions in, masks out; the frames go through the backbone once.

Shapes: T frames, E expressions, H W size of the frames on disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.calibration import Calibration, in_words
from models.network import Features, Network
from models.postprocess import query_scores, resize_logits, stretch_logits, threshold_first
from models.referformer import ReferFormer
from models.segmentation import AT_ONCE, Segmentation, finite
from models.windows import Waiting, Window, follow, window_bytes, window_sizes, windows
from util.masks.box_ops import cxcywh_to_xyxy
from util.run import dist
from util.run.daemon_threads import DaemonThreads, Stalled, take
from util.run.interrupt import Interrupted
from util.run.memory import free_bytes
from util.run.precision import autocast, settled_float32
from util.samples.frames import fitted_size, normalise, resize_frames
from util.samples.structures import Prediction
from util.video.own_video import open_video

ASKED_TOGETHER = 8  # expressions that are answered together
PROBABLE = 0.5  # of a calibrated score
# ReferFormer sees single frames with a padding to a multiple of this: collate_fn in util/misc.py of
# github.com/wjn922/ReferFormer, which its evaluation of A2D, JHMDB and RefCOCO uses. Its scripts for videos do not pad.
PADDED_TO = 32


@dataclass
class EncodedVideo:
    """What :meth:`Predictor.encode` keeps of a video.

    Attributes:
        features: of all frames, on the predictor's device.
        input_size: height and width that the network saw.
        original_size: height and width of the frames given.
        length: number of frames.
    """

    features: Features
    input_size: tuple[int, int]
    original_size: tuple[int, int]
    length: int

    def __len__(self) -> int:
        """Frames."""
        return self.length


@dataclass
class FrameAnswer:
    """What every query makes of one expression in one frame.

    Attributes:
        masks: bool ``[N, H, W]``, on the CPU, in the size of the frame.
        scores: float ``[N]``, class probability of each query in this frame.
        boxes: float ``[N, 4]``, xyxy in pixels of the frame.
    """

    masks: Tensor
    scores: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class PredictorSettings:
    """How a predictor sees frames and texts, and what it computes in.

    Attributes:
        eval_size, max_size: short side of the network's input and limit of its long side.
        amp: "off" (float32), "bf16", "fp16" or "auto", which is settled on a device.
        float32: how a GPU computes products of float32, "tf32" or "ieee" (:func:`util.run.precision.use_float32`).
        window, overlap, clips, long_text, patience, calibration, not_there: as in :class:`Predictor`.
    """

    eval_size: int
    max_size: int
    amp: str = "off"
    float32: str = "tf32"
    window: int | None = None
    overlap: int | None = None
    clips: str = "followed"
    long_text: str = "shorten"
    patience: float = 0
    calibration: Calibration | None = None
    not_there: float | None = None

    def described(self, device: torch.device) -> dict[str, object]:
        """The settings that masks depend on, as plain data; windows where they are not the usual ones.

        ``float32`` is what the device computes in. It is left out on a CPU. So masks of a CPU, and those that a GPU
        made before there was TF32, are not continued in TF32.
        """
        seen = {"eval_size": self.eval_size, "max_size": self.max_size, "amp": self.amp}
        others = {"float32": settled_float32(self.float32, device)}
        others |= {"window": self.window, "overlap": self.overlap, "clips": self.clips}
        others |= {"not_there": self.not_there or None}
        return seen | {name: value for name, value in others.items() if value not in (None, "followed")}


class Predictor:
    """Runs a trained model on videos.

    Args:
        model: on the device to use; it is set to evaluation.
        eval_size, max_size: short side of the network's input and limit of its long side.
        amp: what the network computes in; None: float32.
        threshold: probability above which a pixel belongs to the object.
        window: frames that the network sees together; None: 40. overlap: frames that neighbouring windows of longer
            videos share; None: 8, or half of a window of fewer than 16.
        clips: "followed": objects are followed from window to window, and one query answers for the whole video.
            "independent": each window is answered by itself, as if it were a video, and windows share no frame.
        long_text: "shorten" or "refuse" a text that is longer than the text encoder takes.
        patience: seconds to wait for the frames of a window; 0: any time, as long films may need.
        calibration: makes of the score of an expression the probability that it means something in the video.
        not_there: score below which an expression means nothing, and all its masks are empty; 0: they never are. None:
            0.5 with a calibration, else 0.

    Raises:
        ValueError: such windows or sizes are impossible, or there is no such ``long_text``.
    """

    def __init__(
        self,
        model: Network,
        *,
        eval_size: int,
        max_size: int,
        amp: torch.dtype | None = None,
        threshold: float = 0.5,
        window: int | None = None,
        overlap: int | None = None,
        clips: str = "followed",
        long_text: str = "shorten",
        patience: float = 0,
        calibration: Calibration | None = None,
        not_there: float | None = None,
    ) -> None:
        for name, value in (("--eval_size", eval_size), ("--max_size", max_size)):
            if value < 1:
                raise ValueError(f"{name} {value} is no size of frames; give at least 32")
        self.window, self.overlap = window_sizes(window, overlap, clips)
        self.model = model.eval()
        self.as_referformer = isinstance(model, ReferFormer)  # masks as its scripts make them
        self.long_text = long_text
        self.announce(())
        self.eval_size, self.max_size, self.amp = eval_size, max_size, amp
        self.device = next(model.parameters()).device
        self.threshold = torch.tensor(threshold).logit().item()
        self.calibration = calibration
        self.notice: str | None = None  # what the weights were trained on and what they know, in a sentence or two
        self.not_there = (PROBABLE if calibration else 0.0) if not_there is None else not_there
        self.scores_mean = in_words(calibration, self.not_there)
        if self.not_there and not calibration and dist.is_main():
            print(f"warning: --not_there {not_there:g}: {self.scores_mean} (tools/calibrate.py)", file=sys.stderr)
        self._granted = 0  # the most bytes that a window has needed so far
        self.patience = patience
        self._reader = DaemonThreads("frames")
        self._ahead: tuple[Frames, Future] | None = None  # a video, and the reading of its first window

    def announce(self, texts: Iterable[tuple[str, str]]) -> None:
        """Warns of texts that are too long, or refuses them; to be called before work that an error would waste.

        Args:
            texts: pairs of a place, for the message, and a text.

        Raises:
            ValueError: an expression is empty, or too long while ``long_text`` is "refuse".
        """
        self.model.text_encoder.announce(texts, self.long_text)

    def fit(self, frames: Tensor) -> Tensor:
        """uint8 frames ``[T, 3, H, W]`` in the size that the network sees, on its device.

        Raises:
            ValueError: there are no frames, or they are not uint8 RGB.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not len(frames):
            raise ValueError(f"expected uint8 frames [T, 3, H, W], got {frames.dtype} {tuple(frames.shape)}")
        if self.device.type == "cuda" and frames.device.type == "cpu":
            frames = frames.pin_memory()  # a copy from memory that is not pinned waits until the network has finished
        moved = frames.to(self.device, non_blocking=True)
        return resize_frames(moved, fitted_size(*frames.shape[-2:], self.eval_size, self.max_size))

    @torch.inference_mode()
    def encode(
        self, frames: Tensor, original_size: tuple[int, int] | None = None, *, padded_to: int | None = None
    ) -> EncodedVideo:
        """Runs the backbone, which needs no expression, over uint8 frames ``[T, 3, H, W]``.

        Args:
            original_size: height and width of the masks to make; None: of the frames.
            padded_to: pad the network's input to a multiple of this, at the right and at the bottom, and tell it so.

        Raises:
            ValueError: there are no frames, or they are not uint8 RGB.
        """
        fitted = self.fit(frames)
        height, width = fitted.shape[-2:]
        video, valid = normalise(fitted)[None], None
        if padded_to:
            padding = (0, -width % padded_to, 0, -height % padded_to)
            video = F.pad(video, padding)
            valid = F.pad(torch.ones(1, height, width, dtype=torch.bool, device=self.device), padding)
        with autocast(self.device, self.amp):
            features = self.model.encode_video(video, valid)
        return EncodedVideo(features, (height, width), original_size or tuple(frames.shape[-2:]), len(frames))

    def _predictions(
        self, encoded: EncodedVideo, expressions: list[str], batch: int, frames: Sequence[int] | None = None
    ) -> Iterator[Prediction]:
        """The predictions of the last stage for each ``batch`` of expressions, in these frames; None: in all."""
        for start in range(0, len(expressions), batch):
            asked = expressions[start : start + batch]
            with autocast(self.device, self.amp):
                text = self.model.encode_text(asked)
                same_clip = torch.zeros(len(asked), dtype=torch.long, device=self.device)
                prediction = self.model.decode(encoded.features.of(same_clip), text, frames=frames).final
            yield prediction

    def _enlarged(self, logits: Tensor, input_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Mask logits ``[1, t, h, w]`` of a video to the size of its frames."""
        if self.as_referformer:
            return stretch_logits(logits, size)
        return resize_logits(logits, input_size, size, self.model.mask_stride)

    def _masks(self, logits: Tensor, encoded: EncodedVideo) -> Tensor:
        """Mask logits ``[n, h, w]`` of a single frame to masks ``[n, H, W]``."""
        sizes = (encoded.input_size, encoded.original_size, self.model.mask_stride)
        if self.as_referformer:
            return threshold_first(logits[None], *sizes, self.threshold)[0]
        return resize_logits(logits[None], *sizes)[0] > self.threshold

    @torch.inference_mode()
    def segment(
        self,
        video: Frames,
        expressions: list[str],
        *,
        batch: int = ASKED_TOGETHER,
        seen: Callable[[int], object] = lambda frames: None,
        following: Frames | None = None,
    ) -> Segmentation:
        """Finds what each expression refers to in a video of any length.

        Args:
            video: its frames are read window by window; the next window is read while the network works.
            expressions: texts; the frames are encoded once for all of them.
            batch: expressions that are answered together. It changes the memory, not the result.
            seen: called with the number of frames that are done since the last call: after each window, and with 0 in
                between. An exception that it raises ends the work.
            following: the next video; its first frames are read during the last window of this one.

        Raises:
            ValueError: the video has no frames, or an expression is empty.
            OSError: the temporary file for several windows cannot be written, or reading hangs (Stalled).
        """
        if isinstance(expressions, str):
            raise ValueError(f"expressions are a list of texts: give [{expressions!r}]")
        if not len(video):
            raise ValueError("the video has no frames")
        # refuses an empty text now, and not after a window
        self.announce((f"expression {e}", text) for e, text in enumerate(expressions, 1))
        spans = windows(len(video), self.window, self.overlap)
        alone = len(spans) == 1 or not self.overlap  # whether a window chooses its query by itself
        waiting = Waiting(on_disk=len(spans) > 1, kept_as=np.float32 if alone else np.float16)
        tails: dict[int, Tensor] = {}  # masks [n, t, h, w] of the frames from the next window's start on
        sums: dict[int, Tensor] = {}  # class probabilities [n, k] over the frames that are done
        encoded = None
        with closing(self._read_ahead(video, spans, following)) as read:
            for number, (span, (frames, size)) in enumerate(read):
                self._tell_where_memory_will_not_do(frames, min(batch, len(expressions)))
                encoded = None  # frees the features of the window before
                encoded = self.encode(frames, size)
                next_start = spans[number + 1].start if number + 1 < len(spans) else span.stop
                own = slice(span.first - span.start, span.last - span.start)
                asked = enumerate(self._samples(encoded, expressions, batch))
                for e, (logits, masks) in asked:  # [t, n, k], [t, n, h, w]
                    if e in tails:
                        shared = masks[: tails[e].shape[1]].transpose(0, 1) > 0
                        order = follow(tails[e], shared)
                        logits, masks = logits[:, order], masks[:, order]
                    here = logits[own].float().sigmoid().sum(0)
                    if alone:  # the best proxy is known, so the others need not wait
                        best = here.amax(-1).argmax()[None]
                        here, masks = here[best].amax(-1, keepdim=True), masks[:, best]
                    else:
                        tails[e] = masks[next_start - span.start :].transpose(0, 1) > 0
                    sums[e] = sums.get(e, 0) + here
                    waiting.put(e, span.first, masks[own])
                    seen(0)
                seen(span.last - span.first)
        scores = torch.stack([sums[e].amax(-1) for e in range(len(expressions))]) / len(video) if expressions else None
        enlarge = partial(self._enlarged, input_size=encoded.input_size, size=encoded.original_size)
        how = dict(enlarge=enlarge, threshold=self.threshold, device=self.device)
        how |= dict(calibration=self.calibration, not_there=self.not_there)
        return Segmentation(waiting, scores, encoded.original_size, **how)

    def _read_ahead(
        self, video: Frames, spans: list[Window], following: Frames | None
    ) -> Iterator[tuple[Window, tuple[Tensor, tuple[int, int]]]]:
        """Each window with the result of :meth:`_read`; the next window is decoded while the caller works on one.

        Every frame is read once: frames that two windows share are kept in the size that the network sees.
        """
        first, self._ahead = self._ahead, None
        started = first is not None and first[0] is video
        coming = first[1] if started else self._reader.submit(self._read, video, spans[0])
        try:
            for number, span in enumerate(spans):
                frames = take(coming, self.patience, str(getattr(video, "video_id", "the video")))
                if number + 1 < len(spans):
                    shared = frames[0][spans[number + 1].start - span.start :]
                    coming = self._reader.submit(self._read, video, spans[number + 1], shared)
                elif following is not None and len(following):
                    window = windows(len(following), self.window, self.overlap)[0]
                    self._ahead = following, self._reader.submit(self._read, following, window)
                yield span, frames
        except (Stalled, Interrupted):
            self._reader, coming = DaemonThreads("frames"), None  # the old reader may hang for ever
            raise
        finally:
            if coming:
                # closing a film while it is being read would crash the process
                wait([coming])

    def _read(self, video: Frames, span: Window, shared: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """The frames of a window in the size that the network sees, and the size of the video.

        Args:
            shared: its first frames, which the window before shares.
        """
        parts = [] if shared is None else [shared]
        first = span.start + sum(map(len, parts))
        # all frames of a window in their full size might fill the memory
        for start in range(first, span.stop, AT_ONCE):
            frames = video.read(range(start, min(span.stop, start + AT_ONCE)))
            parts.append(self.fit(frames))
        return torch.cat(parts), tuple(frames.shape[-2:])

    def _tell_where_memory_will_not_do(self, frames: Tensor, expressions: int) -> None:
        """Warns where a window needs more memory than is free, before the network starts; names a window that fits."""
        size = tuple(frames.shape[-2:])
        needed, free = window_bytes(self.model, size, len(frames), expressions), free_bytes(self.device)
        if free is None:
            return
        if self.device.type == "cpu":  # the process keeps the memory of earlier windows
            free += self._granted
        self._granted, before = max(self._granted, needed), self._granted
        if needed <= max(free, before):
            return
        fitting = (n for n in range(self.window - 1, self.overlap, -1))
        mend = next((n for n in fitting if window_bytes(self.model, size, n, expressions) <= free), None)
        how = f"--window {mend} would do" if mend else "lower --eval_size and --max_size, or --window and --overlap"
        print(
            f"warning: {len(frames)} frames of {size[0]}x{size[1]} at once take about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB of memory are free; {how}",
            file=sys.stderr,
            flush=True,
        )

    def _samples(self, encoded: EncodedVideo, expressions: list[str], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Class logits ``[t, n, k]`` and mask logits ``[t, n, h, w]`` of each expression, in their order."""
        for prediction in self._predictions(encoded, expressions, batch):
            yield from zip(prediction.logits, prediction.masks, strict=True)

    @torch.inference_mode()
    def answer_frame(
        self, frames: Tensor, expressions: list[str], frame: int, batch: int = ASKED_TOGETHER
    ) -> Iterator[FrameAnswer]:
        """Every query's answer in one frame of a clip, for each expression in their order.

        Args:
            frames: of the clip, uint8 ``[T, 3, H, W]``.
            frame: its number, from 0.
        """
        self.announce((f"expression {e}", text) for e, text in enumerate(expressions, 1))
        encoded = self.encode(frames, padded_to=PADDED_TO if self.as_referformer else None)
        height, width = encoded.original_size
        pixels = torch.tensor([width, height, width, height])
        for prediction in self._predictions(encoded, expressions, batch, [frame]):
            scores = finite(query_scores(prediction.logits).cpu())
            boxes = cxcywh_to_xyxy(prediction.boxes[:, 0]).cpu() * pixels
            for i, logits in enumerate(prediction.masks[:, 0]):
                yield FrameAnswer(self._masks(logits, encoded).cpu(), scores[i], boxes[i])

    def __call__(self, video: str | Path | Tensor | Frames, expressions: list[str]) -> tuple[Tensor, list[float]]:
        """Finds what each expression refers to, and returns all masks at once; :meth:`segment` returns them piece by
        piece.

        Args:
            video: path of a video file, of a folder of frames or of an image; or frames, uint8 RGB ``[T, 3, H, W]``.
            expressions: any number.

        Returns:
            bool ``[E, T, H, W]`` on the CPU, in the size of the frames, and the score of each expression. The masks of
            an expression whose score is below ``not_there`` are empty.

        Raises:
            FileNotFoundError, ValueError: the video is not there or damaged, or an expression is empty.
        """
        if isinstance(video, str | Path):
            with open_video(video) as opened:
                return self(opened, expressions)
        found = self.segment(InMemory(video) if isinstance(video, Tensor) else video, expressions)
        return found.masks(0, len(video)), found.scores


class Frames(Protocol):
    """A video, wherever it is."""

    def __len__(self) -> int:
        """Frames."""

    def read(self, positions: Sequence[int]) -> Tensor:
        """uint8 RGB ``[t, 3, H, W]`` of these frames."""


@dataclass
class InMemory:
    """A video in memory.

    Attributes:
        frames: uint8 ``[T, 3, H, W]``.
    """

    frames: Tensor

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, positions: Sequence[int]) -> Tensor:
        return self.frames[list(positions)]
