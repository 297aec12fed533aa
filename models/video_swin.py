"""Video Swin backbone: torchvision's SwinTransformer3d with patches of 1×4×4, so that every frame has maps.

Shapes: v clips, t frames, h w size.
"""

from __future__ import annotations

import re

from einops import rearrange
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from util.weights.names import renamed

WINDOW = (8, 7, 7)
# stochastic depth: drop_path_rate in models/video_swin_transformer.py of github.com/wjn922/ReferFormer
VARIANTS = {
    "video_swin_t": dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], stochastic_depth=0.2),
    "video_swin_s": dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], stochastic_depth=0.2),
    "video_swin_b": dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], stochastic_depth=0.2),
}


class VideoSwin(nn.Module):
    """Four maps at strides 4, 8, 16, 32 from a clip, one set per frame.

    Args:
        embed_dim, depths, num_heads, window_size: as in "Video Swin Transformer" (arXiv 2106.13230).
        stochastic_depth: largest chance that a block is skipped in training.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: list[int],
        num_heads: list[int],
        window_size: tuple[int, int, int] = WINDOW,
        stochastic_depth: float = 0.2,
    ) -> None:
        super().__init__()
        swin = SwinTransformer3d(
            patch_size=[1, 4, 4],
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=list(window_size),
            stochastic_depth_prob=stochastic_depth,
            num_classes=1,
        )
        self.patch_embed, self.features = swin.patch_embed, swin.features
        self.channels = [embed_dim * 2**i for i in range(len(depths))]
        # an estimate per token of the first stage: the token, its query, key and value, the output, and a margin
        self.working = 6 * embed_dim / self.strides[0] ** 2

    def blocks(self) -> list[nn.Module]:
        return [block for i, layer in enumerate(self.features) for block in (layer if i % 2 == 0 else [layer])]

    def forward(self, video: Tensor) -> list[Tensor]:
        """``[v, t, 3, h, w]`` to four ``[v, t, c_i, h_i, w_i]``, finest first."""
        x = self.patch_embed(rearrange(video, "v t c h w -> v c t h w"))
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2 == 0:  # even layers are the stages, odd ones merge patches between them
                maps.append(rearrange(x, "v t h w c -> v t c h w"))
        return maps


def _own_name(published: str) -> str | None:
    """The name in :class:`VideoSwin` of a parameter of official or torchvision Video Swin; None for the final norm."""
    if published.startswith("norm."):
        return None
    name = re.sub(r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", published)
    # ReferFormer's models/video_swin_transformer.py names these modules downsamples.0 …
    name = re.sub(r"^(?:layers\.(\d+)\.downsample|downsamples\.(\d+))\.", _merging, name)
    return name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")


def _merging(stage: re.Match) -> str:
    return f"features.{2 * int(stage[1] or stage[2]) + 1}."


def convert_weights(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Official or torchvision Video-Swin weights, under the names and shapes of :class:`VideoSwin`.

    The official names are those of mmaction/models/backbones/swin_transformer.py in SwinTransformer/
    Video-Swin-Transformer. The final norm is left out, because it belongs to the classifier. A patch kernel over two
    frames is summed over time, so that a still video keeps its features (method: "Inputs"). The table of relative
    positions may be missing: it follows from the size of the windows.

    Args:
        wanted: the state of the backbone.

    Raises:
        ValueError: naming ``source``; two names become one.
    """
    state = renamed(state, _own_name, source)
    patches = state.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 5:
        state["patch_embed.proj.weight"] = patches.sum(2, keepdim=True)
    return {name: value for name, value in wanted.items() if name.endswith("relative_position_index")} | state
