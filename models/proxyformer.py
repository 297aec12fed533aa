"""ProxyFormer: referring video object segmentation with cross-modality proxy queries (arXiv 2511.21139, Figure 2).

Shapes: V clips, B samples (an expression asked of a clip), T frames, H W token grid, C channels, N proxies, L words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from models.cmie import CMIEStack
from models.heads import DynamicKernelHead, ReferenceHead
from models.mask_decoder import MaskDecoder
from models.position_encoding import drawn_frames, frame_distances, sine, sine_1d, sine_2d
from models.segmenter import Segmenter
from models.surroundings import Surroundings, masked_mean
from models.text_encoder import TextEncoder
from util.samples.structures import Output, Prediction, at_frames


@dataclass
class Words:
    """The words of expressions, ``F_t [B, L, C]``, real where ``valid [B, L]``."""

    words: Tensor
    valid: Tensor


@dataclass
class VideoFeatures:
    """The features of clips, which depend on the frames alone and serve any number of expressions.

    Attributes:
        tokens: ``F_v^0 [V, T, H, W, C]``.
        valid: bool ``[V, H, W]`` of the tokens, or None without padding.
        laterals: what the segmenter makes of the backbone's maps, ``[V, T, C, h, w]`` each, coarse to fine.
        numbers: ``[V, T]`` of the frames where they are drawn (:func:`models.position_encoding.drawn_frames`); None:
            0, 1, 2, …
    """

    tokens: Tensor
    valid: Tensor | None
    laterals: list[Tensor]
    numbers: Tensor | None = None

    def of(self, clip_index: Tensor) -> VideoFeatures:
        """The features of B samples, each of the clip ``clip_index`` that it belongs to."""

        def pick(x: Tensor) -> Tensor:
            # a single clip is shared, not copied: its laterals take most of the memory
            return x.expand(len(clip_index), *x.shape[1:]) if len(x) == 1 else x.index_select(0, clip_index)

        valid, numbers = (None if x is None else pick(x) for x in (self.valid, self.numbers))
        return VideoFeatures(pick(self.tokens), valid, [pick(x) for x in self.laterals], numbers)


class ProxyFormer(nn.Module):
    """The whole network.

    Args:
        backbone: see :mod:`models.backbone`.
        text_encoder: RoBERTa.
        dim: hidden width C; heads: attention heads; dropout: of attention outputs and the projected words.
        enc_layers: stacked CMIE modules K; dec_layers: steps of the mask decoder.
        num_queries: proxies per frame N; num_classes: of the reference head.
        mask_dim: channels of the mask features; dim_feedforward: 0 for none, as the figure has it.
        token_stride: 32, or 16, where the stride-32 map is upsampled and added before the projection.
        mask_decoder: "fpn" or "cross_modal".
        time_encoding: what tells the frames apart in temporal attention: "absolute", the sine encoding of their
            numbers 0, 1, 2, …; "random", the same with offsets and strides in training (:func:`drawn_frames`);
            "relative", learned biases of distances; or "none".
        aux_loss: predict from every stage for the losses, beside the last.
        jsc_target: what the proxies are compared to by the JSC loss: "joint", "video", "text" or "none" (Table V).
        full, video_reads: variants of the CMIE, see :class:`models.cmie.CMIE`.
        jsc_after: the video of the JSC loss is F_v^K, which has met the proxies, in place of F_v^0 (choice: our text of
            Section III-B has lost the symbol).
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        text_encoder: TextEncoder,
        dim: int = 256,
        heads: int = 8,
        dropout: float = 0.1,
        enc_layers: int = 4,
        dec_layers: int = 3,
        num_queries: int = 5,
        num_classes: int = 1,
        mask_dim: int = 256,
        dim_feedforward: int = 0,
        token_stride: int = 32,
        mask_decoder: str = "fpn",
        time_encoding: str = "absolute",
        aux_loss: bool = True,
        jsc_target: str = "joint",
        full: bool = False,
        video_reads: str = "proxies",
        jsc_after: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.jsc_target, self.jsc_after = dim, jsc_target, jsc_after
        self.time_encoding, self.aux_loss = time_encoding, aux_loss
        self.backbone = backbone
        self.text_encoder = text_encoder
        # one projection per map that makes the tokens; two at stride 16, whose sum is normalised
        token_maps = backbone.channels[2:] if token_stride == 16 else backbone.channels[3:]
        self.video_proj = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in token_maps)
        self.video_norm = nn.LayerNorm(dim)
        self.text_proj = nn.Sequential(nn.Linear(text_encoder.width, dim), nn.LayerNorm(dim), nn.Dropout(dropout))
        self.proxies = nn.Embedding(num_queries, dim)
        # choice: with nn.Embedding's deviation of 1 they outweigh the words at first (docs/results.md)
        nn.init.normal_(self.proxies.weight, std=0.02)
        self.cmie = CMIEStack(
            layers=enc_layers,
            dim=dim,
            heads=heads,
            dropout=dropout,
            dim_feedforward=dim_feedforward,
            full=full,
            video_reads=video_reads,
            relative=time_encoding == "relative",
        )
        self.segmenter = Segmenter(
            MaskDecoder(
                channels=backbone.channels,
                dim=dim,
                mask_dim=mask_dim,
                steps=dec_layers,
                cross_modal=mask_decoder == "cross_modal",
                heads=heads,
                dropout=dropout,
            ),
            DynamicKernelHead(dim=dim, mask_dim=mask_dim),
        )
        self.mask_stride = backbone.strides[-1 - dec_layers]
        self.reference_head = ReferenceHead(dim=dim, num_classes=num_classes)
        widths = {"joint": 2 * dim, "video": dim, "text": dim}
        self.semantics = nn.Linear(widths[jsc_target], dim) if jsc_target in widths else None

    def forward(
        self,
        video: Tensor,
        expressions: list[str],
        video_valid: Tensor | None = None,
        clip_index: Tensor | None = None,
        *,
        frames: Sequence[int] | None = None,
        supervised: bool = True,
    ) -> Output:
        """Segments what each expression refers to.

        Args:
            video: ``[V, T, 3, H, W]``, normalised, zeros on padding.
            expressions: B strings.
            video_valid: bool ``[V, H, W]``, or None without padding.
            clip_index: long ``[B]``, the clip each expression is asked of; None: one expression per clip.
            frames, supervised: see :meth:`decode`.
        """
        if clip_index is None:
            clip_index = torch.arange(len(expressions), device=video.device)
        features = self.encode_video(video, video_valid).of(clip_index)
        return self.decode(features, self.encode_text(expressions), frames=frames, supervised=supervised)

    def encode_video(self, video: Tensor, video_valid: Tensor | None = None) -> VideoFeatures:
        """Frames ``[V, T, 3, H, W]`` to all features that no word changes."""
        maps = self.backbone(video)
        tokens = self.project_tokens(maps)
        valid = None
        if video_valid is not None:
            valid = _resize_valid(video_valid, tokens.shape[2:4])
        drawn = self.training and self.time_encoding == "random"
        numbers = drawn_frames(*tokens.shape[:2], tokens.device) if drawn else None
        return VideoFeatures(tokens, valid, self.segmenter.laterals(maps), numbers)

    def project_tokens(self, maps: list[Tensor]) -> Tensor:
        """The backbone's maps to ``F_v^0 [V, T, H, W, C]``."""
        v = maps[0].shape[0]
        chosen = [rearrange(x, "v t c h w -> (v t) c h w") for x in maps[-len(self.video_proj) :]]
        projected = [proj(x) for proj, x in zip(self.video_proj, chosen, strict=True)]
        x = projected[0]
        for coarser in projected[1:]:
            x = x + F.interpolate(coarser, size=x.shape[-2:], mode="nearest")
        return self.video_norm(rearrange(x, "(v t) c h w -> v t h w c", v=v))

    def encode_text(self, expressions: list[str]) -> Words:
        """The projected words."""
        words, valid = self.text_encoder(expressions)
        return Words(self.text_proj(words), valid)

    def decode(
        self,
        features: VideoFeatures,
        text: Words,
        *,
        frames: Sequence[int] | None = None,
        supervised: bool = False,
    ) -> Output:
        """Answers B expressions from the features of their clips (``features.tokens [B, …]``).

        Args:
            frames: positions of the frames to answer for, T of them from here on; None: all.
            supervised: also compute what only the losses need: predictions of the earlier stages and the semantics.
        """
        b, t, h, w, _ = features.tokens.shape
        words, text_valid = text.words, text.valid
        proxies = repeat(self.proxies.weight, "n c -> b t n c", b=b, t=t).to(features.tokens.dtype)
        around = self.surroundings(features, words, text_valid)

        encoded, stages = self.cmie(features.tokens, proxies, words, around)
        semantics = None
        if supervised:
            video = encoded if self.jsc_after else features.tokens
            semantics = self.joint_semantics(video, around.video_valid, words, text_valid)
        answering, laterals = stages if supervised and self.aux_loss else stages[-1:], features.laterals
        if frames is not None:
            answering, laterals = ([at_frames(x, frames) for x in maps] for maps in (answering, laterals))
            encoded = at_frames(encoded, frames)
        masks = self.segmenter(answering, encoded, laterals, words, text_valid, features.valid)
        predictions = [self.predict(stage, mask) for stage, mask in zip(answering, masks, strict=True)]
        return Output(final=predictions[-1], aux=predictions[:-1], semantics=semantics)

    def stages(self) -> list[nn.Module]:
        """The parts that run one after the other behind the encoders, and hold most of the work."""
        return list(self.cmie.stages)

    def surroundings(self, features: VideoFeatures, words: Tensor, text_valid: Tensor) -> Surroundings:
        """Positions and masks that all stages share."""
        b, t, h, w, _ = features.tokens.shape
        dtype, device = features.tokens.dtype, features.tokens.device
        grid = torch.ones(1, h, w, dtype=torch.bool, device=device) if features.valid is None else features.valid
        time = distances = None
        if self.time_encoding in ("absolute", "random"):
            numbers = torch.arange(t, device=device) if features.numbers is None else features.numbers
            time = sine(numbers, self.dim).to(dtype)
        elif self.time_encoding == "relative":
            distances = frame_distances(t, device)
        return Surroundings(
            space=sine_2d(grid, self.dim).to(dtype).expand(b, -1, -1, -1),
            time=time,
            words=sine_1d(words.shape[1], self.dim, device).to(dtype),
            text_valid=text_valid,
            video_valid=None if features.valid is None else repeat(features.valid, "b h w -> b t h w", t=t),
            distances=distances,
        )

    def predict(self, proxies: Tensor, masks: Tensor) -> Prediction:
        """The reference head, shared by all stages, on the proxies ``[B, T, N, C]`` of one, and their masks."""
        logits, boxes = self.reference_head(proxies)
        return Prediction(logits, boxes, masks, proxies)

    def joint_semantics(
        self, video: Tensor, video_valid: Tensor | None, words: Tensor, text_valid: Tensor
    ) -> Tensor | None:
        """``j [B, C]`` of the JSC loss, from the pooled ``video [B, T, H, W, C]`` of all frames and the pooled words;
        None without the loss."""
        if self.semantics is None:
            return None
        video = masked_mean(video, video_valid, (1, 2, 3))
        text = masked_mean(words, text_valid, 1)
        return self.semantics({"joint": torch.cat((video, text), -1), "video": video, "text": text}[self.jsc_target])


def _resize_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool ``[V, H, W]`` of pixels to the token grid: a token is valid when the pixel at its top-left corner is.

    So every real pixel lies under a valid token, also at the edge of the frame.
    """
    stride = [-(-full // small) for full, small in zip(valid.shape[1:], size, strict=True)]
    return valid[:, :: stride[0], :: stride[1]]
