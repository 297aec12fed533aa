"""ReferFormer's pixel decoder for inference: words taken into the projections, and wide results in the cache.

Shapes: t frames, c channels, h w size of a level, n tokens, m heads of d channels, l words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.fast.feed_forward import add_fed, parts
from models.fast.forms import Form
from models.pixel_decoder import CrossModalBlock


@dataclass
class TakenIn:
    """What attention makes of the words of one sample.

    Attributes:
        scores: ``[m l, c]``, product of a token with it is the score of each word; constant: added to it, ``[m l]``.
        values: ``[c, m l]``, what the words give, behind the output projection.
    """

    scores: Tensor
    constant: Tensor
    values: Tensor


class WordAttention(Form, nn.MultiheadAttention):
    """The form of an attention in which tokens read the words of a sample.

    There are far fewer words than tokens. So keys are taken into the projection of the queries, and the projection of
    the output into the values: two products with narrow matrices instead of two with wide ones and the attention.
    """

    def take_in(self, words: Tensor, word_position: Tensor, padding: Tensor) -> TakenIn:
        """``words`` and ``word_position [l, c]``; bool ``padding [l]``, True where no word is."""
        m = self.num_heads
        with torch.autocast(words.device.type, enabled=False):
            words, word_position = words.float(), word_position.float()
            weights = self.in_proj_weight.float().chunk(3)
            biases = self.in_proj_bias.float().chunk(3)
            key = F.linear(words + word_position, weights[1], biases[1]) * (self.embed_dim // m) ** -0.5
            key, value = (rearrange(x, "l (m d) -> m l d", m=m) for x in (key, F.linear(words, weights[2], biases[2])))
            scores = torch.einsum("mld,mdc->mlc", key, rearrange(weights[0], "(m d) c -> m d c", m=m))
            constant = torch.einsum("mld,md->ml", key, biases[0].view(m, -1)).masked_fill(padding, -torch.inf)
            output = rearrange(self.out_proj.weight.float(), "c (m d) -> m d c", m=m)
            values = torch.einsum("mld,mdc->cml", value, output)
        return TakenIn(scores.flatten(0, 1), constant.flatten(), values.flatten(1))

    def forward(self, tokens: Tensor, words: TakenIn, of_position: Tensor | None = None) -> Tensor:
        """``tokens [n, c]`` to what they read, ``[n, c]``.

        Args:
            of_position: of :meth:`of_position`; None: tokens have none.
        """
        scores = F.linear(tokens, words.scores, words.constant if of_position is None else None)
        scores = scores if of_position is None else scores + of_position
        shares = scores.unflatten(-1, (self.num_heads, -1)).softmax(-1).flatten(-2)
        return F.linear(shares, words.values, self.out_proj.bias)


class FastBlock(Form, CrossModalBlock):
    """The form of a level's block for inference, whose attention to words is :class:`WordAttention`.

    What tokens read of the clip is computed beforehand, for all frames; the rest is done frame by frame.
    """

    def forward(self, map: Tensor, read: Tensor, position: Tensor, words: TakenIn) -> Tensor:
        """Some frames ``map [t, c, h, w]`` of a level, and what they read of the clip on the smaller grid.

        Args:
            read: ``[t, c, h', w']``.
            position: ``[h, w, c]``.

        Returns:
            ``[t, c, h, w]``, channels last.
        """
        t, _, h, w = map.shape
        tokens = map.permute(0, 2, 3, 1).flatten(0, 2)
        tokens = tokens + self.enlarged(read, (h, w)).permute(0, 2, 3, 1).flatten(0, 2)
        position = F.linear(position.flatten(0, 1), words.scores, words.constant)
        rows = torch.empty_like(tokens)
        for frame in range(t):
            of_frame = rows[frame * h * w : (frame + 1) * h * w]
            before = tokens[frame * h * w : (frame + 1) * h * w]
            for part in parts(of_frame):
                x = self.norm1(before[part])
                of_frame[part] = self.norm2(x + self.multihead_attn(x, words, position[part]))
        add_fed(rows, self.linear1, self.linear2, self.norm3)
        return rearrange(rows, "(t h w) c -> t c h w", t=t, h=h)
