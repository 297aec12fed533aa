"""A look inside: which words and which tokens the proxies of a ProxyFormer read while it predicts masks.

Hooks take the numbers from the forward pass that gives the masks; the model stays as it is.

Shapes: K stages of the CMIE, T frames, N proxies, W words, h w token grid, H W size of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models.postprocess import query_scores
from models.predictor import Frames, InMemory, Predictor
from models.proxyformer import ProxyFormer
from models.segmentation import AT_ONCE
from models.text_encoder import TextEncoder
from util.video.attention_picture import attention_picture
from util.video.own_video import open_video


@dataclass(frozen=True)
class Reading:
    """What the proxies read in each stage. An attention has several heads; these are the means over them.

    Attributes:
        text: the expression as the text encoder reads it.
        words: of the text, as the tokenizer parts it, between the marks of its start and its end, which are read, too.
        of_words: float ``[K, T, N, W]``, the share of each word in what a proxy reads of the text; sums over W are 1.
        of_tokens: float ``[K, T, N, h, w]``, the share of each token in what a proxy reads of its frame; sums over h
            and w are 1.
        proxy: number of the proxy whose masks are the answer, from 0.
        score, there: of the expression, as of :class:`models.segmentation.Segmentation`.
        masks: bool ``[T, H, W]``, the answer.
        frames: uint8 RGB ``[T, 3, …]`` in the size that the network sees.
        stride: height and width of a token in pixels of ``frames``.
        numbers: of the frames in the video, from 0.
    """

    text: str
    words: list[str]
    of_words: Tensor
    of_tokens: Tensor
    proxy: int
    score: float
    there: bool
    masks: Tensor
    frames: Tensor
    stride: int
    numbers: range

    def picture(self, proxy: int | None = None, frames: int = 5) -> Image.Image:
        """Draws what one proxy reads: a bar for each word, and maps over frames, for each stage.

        In the picture frames are counted from 1, as on contact sheets and on the page.

        Args:
            proxy: its number, from 0; None: the one whose masks are the answer.
            frames: how many frames to show, evenly spaced from the first to the last.

        Raises:
            ValueError: there is no such proxy, or no frame is asked for.
        """
        proxies = self.of_words.shape[2]
        proxy = self.proxy if proxy is None else proxy
        if not 0 <= proxy < proxies:
            raise ValueError(f"proxy {proxy} does not exist: this model has the proxies 0 to {proxies - 1}")
        if frames < 1:
            raise ValueError(f"{frames} frames cannot be drawn; give at least 1")
        shown = torch.linspace(0, len(self.numbers) - 1, min(frames, len(self.numbers))).round().long()
        masks = F.interpolate(self.masks[shown, None].float(), self.frames.shape[-2:], mode="bilinear")[:, 0] > 0.5
        answers = "its masks are the answer" if proxy == self.proxy else f"the answer is that of proxy {self.proxy}"
        there = "" if self.there else ", not there"
        return attention_picture(
            frames=self.frames[shown].permute(0, 2, 3, 1).numpy(),
            masks=masks.numpy(),
            maps=self.of_tokens[:, shown, proxy].numpy(),
            words=self.words,
            shares=self.of_words[:, :, proxy].mean(1).numpy(),
            stride=self.stride,
            title=self.text,
            note=f"proxy {proxy} of 0 to {proxies - 1}: {answers}; score {self.score:.2f}{there}",
            names=[f"frame {self.numbers[t] + 1}" for t in shown],
        )


def look_inside(predictor: Predictor, video: str | Path | Tensor | Frames, text: str, *, first: int = 0) -> Reading:
    """What the proxies read while the predictor finds what ``text`` refers to.

    Args:
        predictor: of a ProxyFormer.
        video: as for :meth:`Predictor.__call__`. Of a video that is longer than the predictor's window, the frames
            of one window are looked at, which begins with the frame ``first``.

    Raises:
        FileNotFoundError, ValueError: as :meth:`Predictor.__call__`; the model has no such attention; or the video has
            no frame ``first``.
    """
    if isinstance(video, str | Path):
        with open_video(video) as opened:
            return look_inside(predictor, opened, text, first=first)
    model = predictor.model
    if not isinstance(model, ProxyFormer):
        raise ValueError("a ReferFormer has no proxies that read words and tokens; look into a ProxyFormer")
    if any(stage.full for stage in model.cmie.stages):
        raise ValueError("with --cmie full, proxies read the tokens of all frames together, so no frame has a map")
    video = InMemory(video) if isinstance(video, Tensor) else video
    if not 0 <= first < max(len(video), 1):
        raise ValueError(f"first={first}: the video has the frames 0 to {len(video) - 1}")
    numbers = range(first, min(len(video), first + predictor.window))
    part = _Part(video, numbers)
    with _watched(model) as seen:
        found = predictor.segment(part, [text])
    words, word_of = words_of(model.text_encoder, text)
    t, h, w = seen.grid[0]
    of_words = torch.zeros(len(seen.text), t, model.proxies.num_embeddings, len(words))
    of_words.index_add_(-1, word_of, torch.stack(seen.text)[:, 0].unflatten(1, (t, -1)))
    chunks = [part.read(range(start, min(start + AT_ONCE, t))) for start in range(0, t, AT_ONCE)]
    return Reading(
        text=model.text_encoder.read(text),
        words=words,
        of_words=of_words,
        of_tokens=torch.stack(seen.video).unflatten(-1, (h, w)),
        proxy=int(query_scores(seen.logits[0])[0].argmax()),
        score=found.scores[0],
        there=found.there[0],
        masks=found.masks(0, t)[0],
        frames=torch.cat([predictor.fit(chunk).cpu() for chunk in chunks]),
        stride=model.backbone.strides[-len(model.video_proj)],
        numbers=numbers,
    )


def words_of(encoder: TextEncoder, text: str) -> tuple[list[str], Tensor]:
    """The words of an expression, and for each token of it the place of its word, long ``[l]``.

    The marks of start and end are words of their own. The tokenizer parts the words, so punctuation stands alone.
    """
    formed = encoder.read(text)
    read = encoder.tokenizer.encode(formed)
    words: list[str] = []
    word_of: list[int] = []
    before = begins = None
    for token, (start, end), word in zip(read.tokens, read.offsets, read.word_ids, strict=True):
        if word is None:
            words.append(token)
        elif word != before:
            words.append("")
            begins = start
        if word is not None:  # several tokens may lie within one character, so the words are cut out of the text
            words[-1] = formed[begins:end].strip()
        before = word
        word_of.append(len(words) - 1)
    return words, torch.tensor(word_of)


@dataclass
class _Part:
    """The frames ``numbers`` of a video."""

    video: Frames
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, positions: Sequence[int]) -> Tensor:
        return self.video.read([self.numbers[position] for position in positions])


@dataclass
class _Seen:
    """What a pass through the model shows, stage by stage.

    Attributes:
        text: ``[1, (T N), L]``; video: ``[T, N, (h w)]``; grid: T, h, w; logits: ``[1, T, N, classes]``.
    """

    text: list[Tensor] = field(default_factory=list)
    video: list[Tensor] = field(default_factory=list)
    grid: list[torch.Size] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


@contextmanager
def _watched(model: ProxyFormer) -> Iterator[_Seen]:
    """Within it, passes through the model leave what their proxies read."""
    seen = _Seen()

    def keep(weights: list[Tensor]) -> Callable[..., None]:
        def hook(attention: nn.Module, inputs: tuple, named: dict, _: Tensor) -> None:
            weights.append(attention.weights(*inputs, **named).mean(1).cpu())

        return hook

    head = model.reference_head.register_forward_hook(lambda _, __, found: seen.logits.append(found[0].float().cpu()))
    hooks = [head]
    for stage in model.cmie.stages:
        hooks.append(stage.register_forward_pre_hook(lambda _, inputs: seen.grid.append(inputs[0].shape[1:4])))
        hooks.append(stage.proxies_from_text.register_forward_hook(keep(seen.text), with_kwargs=True))
        hooks.append(stage.proxies_from_video_space.register_forward_hook(keep(seen.video), with_kwargs=True))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
