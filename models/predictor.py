"""A video and any number of expressions in, masks out; the frames go through the backbone once.

Shapes: T frames, E expressions, H W size of the frames on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.postprocess import best_masks, query_scores, resize_logits
from models.proxyformer import ProxyFormer, VideoFeatures
from util.box_ops import cxcywh_to_xyxy
from util.frames import prepare_frames
from util.precision import autocast
from util.structures import Prediction


@dataclass
class EncodedVideo:
    """What :meth:`Predictor.encode` keeps of a video.

    Attributes:
        features: of all frames, on the predictor's device.
        input_size: height and width that the network saw.
        original_size: height and width of the frames given.
        length: number of frames.
    """

    features: VideoFeatures
    input_size: tuple[int, int]
    original_size: tuple[int, int]
    length: int

    def __len__(self) -> int:
        """Frames."""
        return self.length


@dataclass
class Answer:
    """What one expression refers to.

    Attributes:
        masks: bool ``[T, H, W]``, on the CPU, in the size of the frames.
        score: class probability of the chosen query, averaged over the frames.
    """

    masks: Tensor
    score: float


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


class Predictor:
    """Runs a trained model on videos.

    Args:
        model: on the device to use; it is set to evaluation.
        eval_size, max_size: short side of the network's input and limit of its long side.
        amp: what the network computes in; None: float32.
        threshold: probability above which a pixel belongs to the object.
    """

    def __init__(
        self,
        model: ProxyFormer,
        *,
        eval_size: int,
        max_size: int,
        amp: torch.dtype | None = None,
        threshold: float = 0.5,
    ) -> None:
        self.model = model.eval()
        self.eval_size, self.max_size, self.amp = eval_size, max_size, amp
        self.device = next(model.parameters()).device
        self.threshold = torch.tensor(threshold).logit().item()

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> EncodedVideo:
        """Runs the backbone over uint8 frames ``[T, 3, H, W]``, all that no expression changes.

        Raises:
            ValueError: there are no frames, or they are not uint8 RGB.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not len(frames):
            raise ValueError(f"expected uint8 frames [T, 3, H, W], got {frames.dtype} {tuple(frames.shape)}")
        video = prepare_frames(frames.to(self.device), self.eval_size, self.max_size)
        with autocast(self.device, self.amp):
            features = self.model.encode_video(video[None])
        return EncodedVideo(features, tuple(video.shape[-2:]), tuple(frames.shape[-2:]), len(frames))

    def _predictions(self, encoded: EncodedVideo, expressions: list[str], batch: int) -> Iterator[Prediction]:
        """What the last stage says of each ``batch`` of expressions."""
        for start in range(0, len(expressions), batch):
            asked = expressions[start : start + batch]
            with autocast(self.device, self.amp):
                words, text_valid = self.model.encode_text(asked)
                same_clip = torch.zeros(len(asked), dtype=torch.long, device=self.device)
                prediction = self.model.decode(encoded.features.of(same_clip), words, text_valid).final
            yield prediction

    def _full_size(self, logits: Tensor, encoded: EncodedVideo) -> Tensor:
        """Mask logits ``[n, h, w]`` of the network to ``[n, H, W]`` of the frames."""
        return resize_logits(logits[None], encoded.input_size, encoded.original_size, self.model.mask_stride)[0]

    @torch.inference_mode()
    def soft_answer(
        self, encoded: EncodedVideo, expressions: list[str], batch: int = 8
    ) -> Iterator[tuple[Tensor, float]]:
        """Mask logits ``[T, H, W]``, on the predictor's device, and score of each expression, in their order."""
        for prediction in self._predictions(encoded, expressions, batch):
            logits, scores = best_masks(prediction)
            for sample, score in zip(logits, scores.tolist(), strict=True):
                yield self._full_size(sample, encoded), score

    def answer(self, encoded: EncodedVideo, expressions: list[str], batch: int = 8) -> Iterator[Answer]:
        """Answers the expressions in their order, ``batch`` at a time (which bounds memory, not the result)."""
        for logits, score in self.soft_answer(encoded, expressions, batch):
            yield Answer((logits > self.threshold).cpu(), score)

    @torch.inference_mode()
    def answer_frame(
        self, encoded: EncodedVideo, expressions: list[str], frame: int, batch: int = 8
    ) -> Iterator[FrameAnswer]:
        """Every query's answer in one frame of the clip, for each expression in their order."""
        chosen = torch.zeros(len(encoded), dtype=torch.bool, device=self.device)
        chosen[frame] = True
        height, width = encoded.original_size
        pixels = torch.tensor([width, height, width, height])
        for prediction in self._predictions(encoded, expressions, batch):
            scores = query_scores(prediction.logits, chosen.expand(len(prediction.logits), -1)).cpu()
            boxes = cxcywh_to_xyxy(prediction.boxes[:, frame]).cpu() * pixels
            for i, logits in enumerate(prediction.masks[:, frame]):
                yield FrameAnswer((self._full_size(logits, encoded) > self.threshold).cpu(), scores[i], boxes[i])

    def __call__(self, frames: Tensor, expressions: list[str]) -> list[Answer]:
        """Encodes the frames once and answers all expressions."""
        return list(self.answer(self.encode(frames), expressions))
