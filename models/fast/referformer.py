"""ReferFormer for inference: what no word changes is computed once, the rest frame by frame.

- The finest level's attention across the clip is computed with the features of the clip.
- All behind it sees one frame at a time, but for the attention across the clip of the other levels. So the maps of one
  frame stay in the cache, and those of the finest level are never held for the whole clip.
- The convolution that makes mask features is linear, as is the first dynamic one behind it. Both become one, of fewer
  channels than mask features have.

Shapes: V clips, B samples, T frames, t a few frames, N queries, C channels, h w size of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from models.deformable import moved
from models.fast.forms import Form
from models.pixel_decoder import Level
from models.position_encoding import sine_of_shares
from models.referformer import ClipFeatures, DynamicMaskHead, ReferFormer, Text
from util.samples.structures import Output, Prediction


def frames_at_once(device: torch.device) -> int:
    """Frames that are encoded, and segmented, together: a single one fills a CPU."""
    return 16 if device.type == "cuda" else 1


@dataclass
class FastFeatures(ClipFeatures):
    """Features of clips, with what the finest level of the pixel decoder reads of its clip.

    Attributes:
        read: ``[V, T, C, h', w']`` on the smaller grid of the level; None: not computed.
    """

    read: Tensor | None = None

    def of(self, clip_index: Tensor) -> FastFeatures:
        picked = super().of(clip_index)
        if self.read is None:
            return picked
        n = len(clip_index)
        read = self.read.expand(n, *self.read.shape[1:]) if len(self.read) == 1 else self.read[clip_index]
        return replace(picked, read=read)

    def at(self, frames: Sequence[int]) -> FastFeatures:
        return replace(super().at(frames), read=None)  # the chosen frames read each other alone

    def only(self, sample: int) -> FastFeatures:
        """The features of one sample, as of a batch of it alone."""
        one = slice(sample, sample + 1)
        return FastFeatures(
            [x[one] for x in self.maps],
            self.lateral[one],
            None if self.valid is None else [x[one] for x in self.valid],
            self.extent[one],
            self.read[one],
        )


class FoldedMaskHead(Form, DynamicMaskHead):
    """The form of the mask head that does the convolution of the mask features, too."""

    def forward(self, queries: Tensor, features: Tensor, centres: Tensor, convolution: nn.Conv2d) -> Tensor:
        """Mask logits ``[t, N, h, w]`` of ``queries [t, N, C]``.

        Args:
            features: ``[t, C, h, w]``, of which the ``convolution`` makes mask features.
            centres: of the queries, in pixels of the input, ``[t, N, 2]``.
        """
        t, n = queries.shape[:2]
        size = features.shape[-2:]
        weights, biases = self.kernels(queries)
        m = convolution.out_channels
        with torch.autocast(queries.device.type, enabled=False):
            first = weights[0].float()
            kernels = torch.einsum("tnom,mcyx->tnocyx", first[..., :m], convolution.weight.float())
            bias = torch.einsum("tnom,m->tno", first[..., :m], convolution.bias.float()) + biases[0].float()
        maps = [
            F.conv2d(x[None], k.flatten(0, 1), b.flatten(), padding=convolution.padding)
            for x, k, b in zip(features, kernels, bias, strict=True)
        ]
        x = torch.cat(maps).unflatten(1, (n, -1)).contiguous()
        if self.relative:
            x = x + self.places(first[None, ..., m:], centres[None], size)[0]
        x = x.flatten(3).relu_()
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            last = weight is weights[-1]
            x = weight @ x + bias[..., None]
            x = x if last else x.relu_()
        return x.view(t, n, *size)


class FastReferFormer(Form, ReferFormer):
    """The form of :class:`models.referformer.ReferFormer` for inference, whose parts have forms, too."""

    def encode_video(self, video: Tensor, video_valid: Tensor | None = None) -> FastFeatures:
        """As :meth:`models.referformer.ReferFormer.encode_video`."""
        plain = super().encode_video(video, video_valid)
        features = FastFeatures(plain.maps, plain.lateral, plain.valid, plain.extent)
        return replace(features, read=self.read_clip(features))

    def read_clip(self, features: ClipFeatures) -> Tensor:
        """What the finest level of the pixel decoder reads of its clip: ``[V, T, C, h', w']``."""
        valid = None if features.valid is None else features.valid[-1]
        level = Level(features.lateral, self.position(features.lateral, valid), valid)
        return self.pixel_decoder.blocks[0].read_clip(level)

    def decode(
        self, features: FastFeatures, text: Text, *, frames: Sequence[int] | None = None, supervised: bool = False
    ) -> Output:
        """As :meth:`models.referformer.ReferFormer.decode`."""
        if frames is not None:
            features = features.at(frames)
        if features.read is None:
            features = replace(features, read=self.read_clip(features))
        word_position = sine_of_shares(text.valid, self.dim)
        answers = []
        for b in range(len(text.words)):
            told = (text.words[b], word_position[b], ~text.valid[b])
            answers.append(self._answer(features.only(b), told, text.sentence[b], supervised and self.aux_loss))
        stages = [
            Prediction(*(torch.stack(x) for x in zip(*samples, strict=True))) for samples in zip(*answers, strict=True)
        ]
        return Output(final=stages[-1], aux=stages[:-1], semantics=None)

    def _answer(
        self, features: FastFeatures, told: tuple[Tensor, Tensor, Tensor], sentence: Tensor, supervised: bool
    ) -> list[tuple[Tensor, ...]]:
        """For each stage, the four parts of its prediction, of one sample.

        Args:
            told: words ``[L, C]``, their positions, and True where no word is ``[L]``.
            sentence: ``[C]``.
        """
        t = features.lateral.shape[1]
        positions = [x[0] for x in self.positions(features)]
        step = frames_at_once(sentence.device)
        spans = [slice(start, min(start + step, t)) for start in range(0, t, step)]
        states, references, encoded = [], [], []
        words = self.fusion.take_in(*told)
        for span in spans:
            k = span.stop - span.start
            maps = self.as_tokens([x[:, span] for x in features.maps], features.valid)
            read = self.fusion(maps.tokens.flatten(0, 1), words)
            maps.tokens = maps.tokens * read.view(maps.tokens.shape)
            maps = self.transformer.encode(maps, [repeat(x, "h w c -> k (h w) c", k=k) for x in positions[:-1]])
            queries = repeat(sentence, "c -> k n c", k=k, n=self.query_embed.num_embeddings)
            places = repeat(self.query_embed.weight, "n c -> k n c", k=k).to(queries.dtype)
            found = self.transformer.decode(queries, places, maps, self.bbox_embed if self.refine else None)
            for kept, new in zip((states, references), found, strict=True):
                kept.append(new)
            encoded.append(maps.split()[:3])
        states, references = ([torch.cat(x) for x in zip(*found, strict=True)] for found in (states, references))
        maps = [torch.cat(x) for x in zip(*encoded, strict=True)]
        wanted = range(len(states)) if supervised else [len(states) - 1]
        boxes, centres = [], []
        for i in wanted:
            boxes.append(moved(references[i], self.bbox_embed[i if self.refine else 0](states[i])))
            centres.append(references[i + 1][..., :2] * features.extent)
        masks: list[list[Tensor]] = [[] for _ in wanted]
        coarse = self._coarse(features, maps, positions, told)
        block, layer = self.pixel_decoder.blocks[0], self.pixel_decoder.layers[0]
        words = block.multihead_attn.take_in(*told)
        for span in spans:
            here = block(features.lateral[0, span], features.read[0, span], positions[-1], words)
            here += F.interpolate(coarse[span], size=here.shape[-2:], mode="nearest")
            fine = layer(here)
            for i, found, at in zip(wanted, masks, centres, strict=True):
                found.append(self.mask_head(states[i][span], fine, at[span], self.pixel_decoder.mask_features))
        return [
            (self.class_embed[i if self.refine else 0](states[i]), box, torch.cat(mask), states[i])
            for i, box, mask in zip(wanted, boxes, masks, strict=True)
        ]

    def _coarse(
        self,
        features: FastFeatures,
        maps: list[Tensor],
        positions: list[Tensor],
        told: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """The pixel decoder of one sample up to its finest level but one: ``[T, C, h, w]``.

        Args:
            maps: that the transformer has encoded, ``[T, C, h, w]``, finest first.
        """
        decoder, x = self.pixel_decoder, None
        for i in (2, 1, 0):
            block = decoder.blocks[i + 1]
            adapted = decoder.adapt(i + 1, maps[i][None])
            valid = None if features.valid is None else features.valid[i]
            read = block.read_clip(Level(adapted, positions[i][None], valid))[0]
            here = block(adapted[0], read, positions[i], block.multihead_attn.take_in(*told))
            x = here if x is None else here.add_(F.interpolate(x, size=here.shape[-2:], mode="nearest"))
            x = decoder.layers[i + 1](x)
        return x
