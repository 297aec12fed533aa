"""From the encoded tokens F_v^K and the proxies to masks: mask features, cut by a kernel of each proxy (Figure 2).

Shapes: v clips, b samples, t frames, n proxies, h w grid of a map, c channels, l words.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.heads import DynamicKernelHead
from models.mask_decoder import MaskDecoder


class Segmenter(nn.Module):
    """The mask decoder and the kernel head, which share the width of the mask features.

    Args:
        mask_decoder: makes the mask features; kernel_head: cuts the masks out of them.
    """

    def __init__(self, mask_decoder: MaskDecoder, kernel_head: DynamicKernelHead) -> None:
        super().__init__()
        self.mask_decoder = mask_decoder
        self.kernel_head = kernel_head

    def laterals(self, maps: list[Tensor]) -> list[Tensor]:
        """What the backbone's maps ``[v, t, c_i, h_i, w_i]``, finest first, add to the mask features.

        No word changes it, so it is computed once for all expressions of a clip.

        Returns:
            Coarse to fine ``[v, t, c, h_i, w_i]``.
        """
        return self.mask_decoder.laterals(maps)

    def forward(
        self,
        stages: list[Tensor],
        encoded: Tensor,
        laterals: list[Tensor],
        words: Tensor,
        text_valid: Tensor,
        video_valid: Tensor | None = None,
    ) -> list[Tensor]:
        """The masks of several stages, all cut from the same mask features.

        Args:
            stages: proxies ``[b, t, n, c]`` of each stage.
            encoded: ``F_v^K [b, t, h, w, c]``, real where ``video_valid [b, h, w]``.
            laterals: of the clip of each sample, ``[b, t, …]``.
            words: ``[b, l, c]``, real where ``text_valid [b, l]``.

        Returns:
            Mask logits ``[b, t, n, h', w']`` of each stage, of the size of the last lateral.
        """
        mask_features = self.mask_decoder(encoded, laterals, words, text_valid, video_valid)
        return [self.kernel_head(proxies, mask_features) for proxies in stages]
