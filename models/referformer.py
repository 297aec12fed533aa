"""ReferFormer (arXiv 2201.00487): the paper's baseline. Queries made of the sentence ask a deformable transformer.

Source of what the paper leaves open: models/referformer.py of github.com/wjn922/ReferFormer.

Shapes: V clips, B samples (an expression asked of a clip), T frames, N queries, C channels, L words, h w size of a map,
K classes. Places are shares of a frame, x before y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from models.deformable import DeformableTransformer, Maps, moved
from models.heads import mlp
from models.pixel_decoder import CrossModalPyramid, Level
from models.position_encoding import sine_2d, sine_of_shares
from models.text_encoder import TextEncoder
from util.samples.structures import Output, Prediction, at_frames

GROUPS = 32
FIXED_DROPOUT = 0.1  # of the words and in the pyramid of the mask features, whatever that of the transformer is
# Of the attention to words in the fusion and the mask features, whatever --nheads: models/referformer.py and
# models/segmentation.py there have the number in their code.
WORD_HEADS = 8


@dataclass
class ClipFeatures:
    """The features of clips, which depend on the frames alone and serve any number of expressions.

    Attributes:
        maps: projected maps ``[V, T, C, h, w]``, finest first; the first has stride 8, or 32 if it is the only one.
        lateral: the finest map of the backbone as the mask features take it, ``[V, T, C, h, w]`` at stride 4.
        valid: for each map, and last for ``lateral``, bool ``[V, h, w]``; None without padding.
        extent: width and height of each clip without padding, in pixels of the input: ``[V, 2]``.
    """

    maps: list[Tensor]
    lateral: Tensor
    valid: list[Tensor] | None
    extent: Tensor

    def of(self, clip_index: Tensor) -> ClipFeatures:
        """The features of B samples, each of the clip ``clip_index`` that it belongs to."""

        def pick(x: Tensor) -> Tensor:
            # a single clip is shared, not copied
            return x.expand(len(clip_index), *x.shape[1:]) if len(x) == 1 else x.index_select(0, clip_index)

        valid = None if self.valid is None else [pick(x) for x in self.valid]
        maps = [pick(x) for x in self.maps]
        return replace(self, maps=maps, lateral=pick(self.lateral), valid=valid, extent=pick(self.extent))

    def at(self, frames: Sequence[int]) -> ClipFeatures:
        """The features of some frames."""
        maps = [at_frames(x, frames) for x in self.maps]
        return replace(self, maps=maps, lateral=at_frames(self.lateral, frames))


@dataclass
class Text:
    """Words ``[B, L, C]``, real where ``valid [B, L]``, and the sentence as a whole ``[B, C]``."""

    words: Tensor
    valid: Tensor
    sentence: Tensor


class DynamicMaskHead(nn.Module):
    """Masks from three 1×1 convolutions whose weights each query makes, on mask features and places relative to it.

    Args:
        dim: of the queries; mask_dim: of the mask features; channels: of the convolutions; layers: how many.
        relative: give the convolutions the places, in pixels of the input.
        stride: of the mask features.
    """

    def __init__(self, *, dim: int, mask_dim: int, channels: int, layers: int, relative: bool, stride: int = 4) -> None:
        super().__init__()
        self.relative, self.stride = relative, stride
        inner = [mask_dim + 2 * relative, *[channels] * (layers - 1)]
        outer = [*[channels] * (layers - 1), 1]
        self.shapes = list(zip(outer, inner, strict=True))
        self.controller = mlp(dim, dim, dim, sum(o * i for o, i in self.shapes) + sum(outer))
        for layer in self.controller[::2]:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, mask_features: Tensor, centres: Tensor) -> Tensor:
        """Mask logits ``[B, T, N, h, w]`` of ``queries [B, T, N, C]``.

        Args:
            mask_features: ``[B, T, m, h, w]``.
            centres: of the queries, in pixels of the input, ``[B, T, N, 2]``.
        """
        weights, biases = self.kernels(queries)
        m = mask_features.shape[2]
        x = torch.einsum("btnom,btmhw->btnohw", weights[0][..., :m], mask_features)
        x = x + biases[0][..., None, None]
        if self.relative:
            x = x + self.places(weights[0][..., m:], centres, mask_features.shape[-2:])
        for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
            x = torch.einsum("btnoi,btnihw->btnohw", weight, x.relu()) + bias[..., None, None]
        return torch.einsum("btni,btnihw->btnhw", weights[-1].squeeze(-2), x.relu()) + biases[-1][..., None]

    def kernels(self, queries: Tensor) -> tuple[list[Tensor], Sequence[Tensor]]:
        """Weights ``[…, o, i]`` and biases ``[…, o]`` of the convolutions of ``queries […, C]``."""
        sizes = [o * i for o, i in self.shapes] + [o for o, _ in self.shapes]
        parts = self.controller(queries).split(sizes, dim=-1)
        weights = [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=False)]
        return weights, parts[len(self.shapes) :]

    def places(self, weight: Tensor, centres: Tensor, size: tuple[int, int]) -> Tensor:
        """What the vector from each place to the centre of a query adds: ``[B, T, N, o, h, w]``.

        ``weight [B, T, N, o, 2]``. The convolution is linear, so rows and columns are added up without a map of both.
        """
        h, w = size
        rows, columns = (torch.arange(n, device=centres.device) * self.stride + self.stride // 2 for n in (h, w))
        x = weight[..., 0, None] * (centres[..., 0, None] - columns)[..., None, :]
        y = weight[..., 1, None] * (centres[..., 1, None] - rows)[..., None, :]
        return x[..., None, :] + y[..., :, None]


class ReferFormer(nn.Module):
    """The whole network, behind the interface of :class:`models.proxyformer.ProxyFormer`.

    Args:
        backbone: see :mod:`models.backbone`; its maps pass LayerNorms where ``map_norms``, as image Swin's do.
        text_encoder: RoBERTa with its pooler.
        dim: hidden width C; heads, dropout, dim_feedforward: of the transformer.
        enc_layers, dec_layers: of the transformer; levels: maps that it reads; points: in each.
        num_queries: N; num_classes: K.
        mask_dim: channels of the mask features; mask_channels, mask_layers: of the dynamic convolutions.
        relative: give them relative places; refine: refine boxes from layer to layer.
        aux_loss: predict from every decoder layer for the losses, beside the last.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        text_encoder: TextEncoder,
        dim: int = 256,
        heads: int = 8,
        dropout: float = 0.1,
        dim_feedforward: int = 2048,
        enc_layers: int = 4,
        dec_layers: int = 4,
        levels: int = 4,
        points: int = 4,
        num_queries: int = 5,
        num_classes: int = 1,
        mask_dim: int = 256,
        mask_channels: int = 8,
        mask_layers: int = 3,
        relative: bool = True,
        refine: bool = True,
        aux_loss: bool = True,
        map_norms: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.refine, self.aux_loss = dim, refine, aux_loss
        self.backbone, self.text_encoder = backbone, text_encoder
        self.map_norms = nn.ModuleList(nn.LayerNorm(c) for c in backbone.channels) if map_norms else None
        self.input_proj = nn.ModuleList(_projection(c, dim, 1) for c in backbone.channels[1:])
        # further maps are made of the coarsest, each half as large as the one before
        inner = [backbone.channels[-1], *[dim] * (levels - 4)]
        self.input_proj.extend(_projection(c, dim, 3) for c in inner[: levels - 3])
        self.resizer = nn.Sequential(
            nn.Linear(text_encoder.width, dim), nn.LayerNorm(dim, eps=1e-12), nn.Dropout(FIXED_DROPOUT)
        )
        self.fusion = nn.MultiheadAttention(dim, WORD_HEADS, batch_first=True)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.transformer = DeformableTransformer(
            dim=dim,
            heads=heads,
            hidden=dim_feedforward,
            dropout=dropout,
            enc_layers=enc_layers,
            dec_layers=dec_layers,
            levels=levels,
            points=points,
        )
        heads_of = dec_layers if refine else 1
        self.class_embed = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(heads_of))
        self.bbox_embed = nn.ModuleList(mlp(dim, dim, dim, 4) for _ in range(heads_of))
        for classes, boxes in zip(self.class_embed, self.bbox_embed, strict=True):
            nn.init.constant_(classes.bias, -math.log(99))  # a 1 % chance of "referred"
            nn.init.zeros_(boxes[-1].weight)
            nn.init.zeros_(boxes[-1].bias)
        if not aux_loss:  # earlier layers have no loss; DDP refuses parameters that are trained without one
            for head in (*self.class_embed[:-1], *self.bbox_embed[:-1]):
                head.requires_grad_(False)
        nn.init.constant_(self.bbox_embed[0][-1].bias[2:], -2.0)  # boxes start small
        self.pixel_decoder = CrossModalPyramid(
            channels=backbone.channels[0],
            dim=dim,
            mask_dim=mask_dim,
            heads=WORD_HEADS,
            hidden=dim_feedforward,
            dropout=FIXED_DROPOUT,
        )
        self.mask_head = DynamicMaskHead(
            dim=dim, mask_dim=mask_dim, channels=mask_channels, layers=mask_layers, relative=relative
        )
        self.mask_stride = self.mask_head.stride

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
        """Segments what each expression refers to; arguments as of ProxyFormer, and ``frames`` as of :meth:`decode`."""
        if clip_index is None:
            clip_index = torch.arange(len(expressions), device=video.device)
        features = self.encode_video(video, video_valid)
        return self.decode(features.of(clip_index), self.encode_text(expressions), frames=frames, supervised=supervised)

    def encode_video(self, video: Tensor, video_valid: Tensor | None = None) -> ClipFeatures:
        """Frames ``[V, T, 3, H, W]`` to all features that no word changes."""
        maps = self.backbone(video)
        if self.map_norms is not None:
            moved_last = (rearrange(x, "v t c h w -> v t h w c") for x in maps)
            normed = [norm(x) for norm, x in zip(self.map_norms, moved_last, strict=True)]
            maps = [rearrange(x, "v t h w c -> v t c h w") for x in normed]
        v, t, _, height, width = video.shape
        projected = [proj(x.flatten(0, 1)) for proj, x in zip(self.input_proj, maps[1:], strict=False)]
        coarser = maps[-1].flatten(0, 1)
        for proj in self.input_proj[3:]:
            coarser = proj(coarser)
            projected.append(coarser)
        projected = [x.unflatten(0, (v, t)) for x in projected]
        lateral = self.pixel_decoder.adapt(0, maps[0])
        if video_valid is None:
            extent = torch.full((v, 2), height, device=video.device, dtype=torch.float32)
            extent[:, 0] = width
            return ClipFeatures(projected, lateral, None, extent)
        extent = torch.stack((video_valid.any(1).sum(1), video_valid.any(2).sum(1)), -1).float()
        valid = [_resized(video_valid, x.shape[-2:]) for x in (*projected, lateral)]
        return ClipFeatures(projected, lateral, valid, extent)

    def encode_text(self, expressions: list[str]) -> Text:
        """Words and sentences in the width of the network."""
        words, valid, sentence = self.text_encoder.pooled(expressions)
        return Text(self.resizer(words), valid, self.resizer(sentence))

    def decode(
        self, features: ClipFeatures, text: Text, *, frames: Sequence[int] | None = None, supervised: bool = False
    ) -> Output:
        """Answers B expressions from the features of their clips.

        Args:
            frames: positions of the frames to answer for; None: all.
            supervised: also compute what only the losses need: predictions of the earlier layers.
        """
        if frames is not None:
            features = features.at(frames)
        b, t = features.lateral.shape[:2]
        word_position = sine_of_shares(text.valid, self.dim).to(text.words.dtype)
        word_padding = ~text.valid
        positions = self.positions(features)
        fused = [self.fuse(x, text.words, word_position, word_padding) for x in features.maps]
        maps = self.transformer.encode(
            self.as_tokens(fused, features.valid), [_per_frame(x, t) for x in positions[:-1]]
        )
        queries = repeat(text.sentence, "b c -> (b t) n c", t=t, n=self.query_embed.num_embeddings)
        places = repeat(self.query_embed.weight, "n c -> g n c", g=b * t).to(queries.dtype)
        states, references = self.transformer.decode(queries, places, maps, self.bbox_embed if self.refine else None)

        mask_features = self.mask_features(features, maps, positions, text.words, word_position, word_padding)
        predictions = []
        for i, state in enumerate(states):
            if i < len(states) - 1 and not (supervised and self.aux_loss):
                continue
            head = i if self.refine else 0
            state = state.unflatten(0, (b, t)).clone()  # FSDP takes no views of tensors that it hands out
            boxes = moved(references[i].unflatten(0, (b, t)), self.bbox_embed[head](state))
            centres = references[i + 1].unflatten(0, (b, t))[..., :2] * features.extent[:, None, None]
            masks = self.mask_head(state, mask_features, centres)
            predictions.append(Prediction(self.class_embed[head](state), boxes, masks, state))
        return Output(final=predictions[-1], aux=predictions[:-1], semantics=None)

    def stages(self) -> list[nn.Module]:
        """The parts that run one after the other behind the encoders, and hold most of the work."""
        return [*self.transformer.encoder, *self.transformer.decoder, *self.pixel_decoder.blocks]

    def positions(self, features: ClipFeatures) -> list[Tensor]:
        """Encodings of the places of each map, and last of the lateral: ``[B, h, w, C]``."""
        maps = (*features.maps, features.lateral)
        return [self.position(x, valid) for x, valid in zip(maps, features.valid or [None] * len(maps), strict=True)]

    def position(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Encodings of the places of a map ``x [B, T, C, h, w]``, real where ``valid [B, h, w]``: ``[B, h, w, C]``."""
        real = torch.ones(1, *x.shape[-2:], dtype=torch.bool, device=x.device) if valid is None else valid
        return sine_2d(real, self.dim, of_padding=True).to(x.dtype).expand(len(x), -1, -1, -1)

    def fuse(self, x: Tensor, words: Tensor, word_position: Tensor, word_padding: Tensor) -> Tensor:
        """A map ``[B, T, C, h, w]``, multiplied by what its tokens read of the words."""
        t, h = x.shape[1], x.shape[3]
        tokens = rearrange(x, "b t c h w -> b (t h w) c")
        read = self.fusion(tokens, words + word_position, words, word_padding, need_weights=False)[0]
        return rearrange(tokens * read, "b (t h w) c -> b t c h w", t=t, h=h)

    def as_tokens(self, maps: list[Tensor], valid: list[Tensor] | None) -> Maps:
        """Maps ``[B, T, C, h, w]`` as one row of tokens for each frame."""
        b, t = maps[0].shape[:2]
        tokens = torch.cat([rearrange(x, "b t c h w -> (b t) (h w) c") for x in maps], 1)
        sizes = [tuple(x.shape[-2:]) for x in maps]
        if valid is None:
            return Maps(tokens, sizes, None, tokens.new_ones(b * t, len(maps), 2, dtype=torch.float32))
        real = torch.cat([_per_frame(x, t) for x in valid[:-1]], 1)
        shares = [torch.stack((x[:, 0].float().mean(-1), x[:, :, 0].float().mean(-1)), -1) for x in valid[:-1]]
        return Maps(tokens, sizes, real, repeat(torch.stack(shares, 1), "b l i -> (b t) l i", t=t))

    def mask_features(
        self,
        features: ClipFeatures,
        maps: Maps,
        positions: list[Tensor],
        words: Tensor,
        word_position: Tensor,
        word_padding: Tensor,
    ) -> Tensor:
        """``[B, T, m, h, w]`` from the encoded maps and the finest map of the backbone."""
        b, t = features.lateral.shape[:2]
        valid = features.valid or [None] * (len(features.maps) + 1)
        levels = [Level(features.lateral, positions[-1], valid[-1])]
        for i, x in enumerate(maps.split()[:3]):
            adapted = self.pixel_decoder.adapt(i + 1, x.unflatten(0, (b, t)))
            levels.append(Level(adapted, positions[i], valid[i]))
        return self.pixel_decoder(levels, words, word_position, word_padding)


def _projection(inner: int, outer: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, size, stride=1 if size == 1 else 2, padding=size // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, outer))


def _resized(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """bool ``[V, H, W]`` to a smaller map, by nearest neighbours."""
    return F.interpolate(valid[:, None].float(), size=size)[:, 0].bool()


def _per_frame(x: Tensor, frames: int) -> Tensor:
    """``[B, h, w, …]`` to tokens of each frame ``[(B T), (h w), …]``."""
    return x.flatten(1, 2).repeat_interleave(frames, 0)
