"""Cross-Modality Interaction Encoder: the stacked, decoupled exchange between video, proxies and words (Figure 2).

Two choices of the paper's ablations (Section IV-D) change a stage: ``full`` attention, and what the video reads.

Shapes: b samples, t frames, h w token grid, n proxies per frame, l words, c channels.
    video [b, t, h, w, c]     proxies [b, t, n, c]     text [b, l, c]
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from models.attention import Attention, FeedForward
from models.surroundings import Surroundings, masked_mean


class CMIE(nn.Module):
    """One stage. Both blocks read the inputs of the stage; neither waits for the other (Figure 2).

    A stage has only the modules that it uses, so every parameter of every variant is trained.

    Args:
        dim: channels; heads: attention heads; dropout: of the attention outputs.
        dim_feedforward: width of a feed-forward layer after each block; 0 is the figure: none.
        full: attend to space and time together in the three interactions that the figure decouples: video with
            itself, video with proxies, proxies with video (CMIE* of Table IV (3), Table VIII (d)). Each is one
            attention in place of the sum of two; nothing is pooled. The paper names no encoding: here the encodings
            of place and time are added (choice).
        video_reads: what the video reads once it has read itself:

            - "proxies": those of its frame and, pooled, those of all frames.
            - "nothing": it goes on as it is, while the proxies read words and video (CMIE w/o P2V, Table IV (4)).
            - "words": the words themselves (Table VIII (b), w/o proxy queries). The paper says that "the proxy
              encoder" stays and that video and text meet by cross-attention in each stage. It does not say what
              predicts, whether the text reads the video, too, or whether space and time are decoupled. Here the proxy
              block stays whole and predicts, the text reads nothing, and ``full`` decides about space and time
              (choice). Tokens carry place and time where they read, as where they read proxies (choice).
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        dropout: float,
        dim_feedforward: int = 0,
        full: bool = False,
        video_reads: str = "proxies",
    ) -> None:
        super().__init__()
        self.full, self.video_reads = full, video_reads

        def attention() -> Attention:
            return Attention(dim=dim, heads=heads, dropout=dropout)

        def feed_forward() -> nn.Module:
            return FeedForward(dim=dim, hidden=dim_feedforward, dropout=dropout) if dim_feedforward else nn.Identity()

        self.video_in = nn.Linear(dim, dim)
        if full:
            self.video_space_time = attention()
        else:
            self.video_space = attention()
            self.video_time = attention()
        if video_reads == "words":
            self.video_from_text = attention()
        elif video_reads == "proxies" and full:
            self.video_from_proxies_space_time = attention()
        elif video_reads == "proxies":
            self.video_from_proxies_space = attention()
            self.video_from_proxies_time = attention()
        self.video_out = feed_forward()

        self.proxies_in = nn.Linear(dim, dim)
        self.text_in = nn.Linear(dim, dim)
        self.proxies_from_text = attention()
        if full:
            self.proxies_from_video_space_time = attention()
        else:
            self.proxies_from_video_space = attention()
            self.proxies_from_video_time = attention()
        self.proxies_out = feed_forward()

    def forward(self, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """Returns the video ``[b, t, h, w, c]`` and the proxies ``[b, t, n, c]`` of the next stage."""
        words = self.text_in(text)
        return self.video_block(video, proxies, words, around), self.proxy_block(proxies, video, words, around)

    def video_block(self, video: Tensor, proxies: Tensor, words: Tensor, around: Surroundings) -> Tensor:
        x = self.video_in(video)
        if self.full:
            y = self.attend_space_time(x, around)
        else:
            y = self.attend_space(x, around) + self.attend_time(x, around)
        if self.video_reads == "nothing":
            read = y
        elif self.video_reads == "words":
            read = self.read_words(y, words, around)
        elif self.full:
            read = self.read_proxies_space_time(y, proxies, around)
        else:
            read = self.read_proxies_space(y, proxies, around) + self.read_proxies_time(y, proxies, around)
        return self.video_out(read)

    def proxy_block(self, proxies: Tensor, video: Tensor, words: Tensor, around: Surroundings) -> Tensor:
        r = self.read_text(self.proxies_in(proxies), words, around)
        if self.full:
            read = self.read_video_space_time(r, video, around)
        else:
            read = self.read_video_space(r, video, around) + self.read_video_time(r, video, around)
        return self.proxies_out(read)

    # Video block -----------------------------------------------------------------------------------------------

    def attend_space(self, x: Tensor, around: Surroundings) -> Tensor:
        """Tokens of one frame attend to each other."""
        b, t, h, w, _ = x.shape
        tokens, place = rearrange(x, "b t h w c -> (b t) (h w) c"), around.places(t)
        valid = around.valid_tokens("(b t) (h w)")
        tokens = self.video_space(tokens, tokens, x_position=place, context_position=place, context_valid=valid)
        return rearrange(tokens, "(b t) (h w) c -> b t h w c", b=b, h=h)

    def attend_time(self, x: Tensor, around: Surroundings) -> Tensor:
        """Tokens of one location attend along time."""
        b, t, h, w, _ = x.shape
        tokens = rearrange(x, "b t h w c -> (b h w) t c")
        tokens = self.video_time(
            tokens,
            tokens,
            x_position=around.time,
            context_position=around.time,
            context_valid=around.valid_tokens("(b h w) t"),
        )
        return rearrange(tokens, "(b h w) t c -> b t h w c", h=h, w=w)

    def attend_space_time(self, x: Tensor, around: Surroundings) -> Tensor:
        """``full``: all tokens of a video attend to each other."""
        t, h = x.shape[1:3]
        tokens, place = rearrange(x, "b t h w c -> b (t h w) c"), around.places_and_times(t)
        valid = around.valid_tokens("b (t h w)")
        tokens = self.video_space_time(tokens, tokens, x_position=place, context_position=place, context_valid=valid)
        return rearrange(tokens, "b (t h w) c -> b t h w c", t=t, h=h)

    def read_proxies_space(self, y: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        """A frame's tokens read that frame's proxies."""
        b, t, h, w, _ = y.shape
        tokens = self.video_from_proxies_space(
            rearrange(y, "b t h w c -> (b t) (h w) c"),
            rearrange(proxies, "b t n c -> (b t) n c"),
            x_position=around.places(t),
            context_valid=None if around.proxy_valid is None else rearrange(around.proxy_valid, "b t n -> (b t) n"),
        )
        return rearrange(tokens, "(b t) (h w) c -> b t h w c", b=b, h=h)

    def read_proxies_time(self, y: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        """Tokens of a location read the t frame-pooled proxies.

        The paper copies the pooled proxies to every location; the copies are equal, so all locations of a video
        share one set of t keys instead.
        """
        b, t, h, w, _ = y.shape
        tokens = self.video_from_proxies_time(
            rearrange(y, "b t h w c -> b (t h w) c"),
            masked_mean(proxies, around.proxy_valid, 2),
            x_position=around.times(h * w),
            context_position=around.time,
            context_valid=around.valid_frames(of_proxies=True),
        )
        return rearrange(tokens, "b (t h w) c -> b t h w c", t=t, h=h)

    def read_proxies_space_time(self, y: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        """``full``: all tokens of a video read the t n proxies of all its frames, each with the time of its frame."""
        t, h = y.shape[1:3]
        n = proxies.shape[2]
        tokens = self.video_from_proxies_space_time(
            rearrange(y, "b t h w c -> b (t h w) c"),
            rearrange(proxies, "b t n c -> b (t n) c"),
            x_position=around.places_and_times(t),
            context_position=around.times(n),
            context_valid=around.valid_proxies(n),
        )
        return rearrange(tokens, "b (t h w) c -> b t h w c", t=t, h=h)

    def read_words(self, y: Tensor, words: Tensor, around: Surroundings) -> Tensor:
        """Without proxies between them: the tokens read the words."""
        t, h = y.shape[1:3]
        tokens = self.video_from_text(
            rearrange(y, "b t h w c -> b (t h w) c"),
            words,
            x_position=around.places_and_times(t),
            context_position=around.words,
            context_valid=around.text_valid,
        )
        return rearrange(tokens, "b (t h w) c -> b t h w c", t=t, h=h)

    # Proxy block -----------------------------------------------------------------------------------------------

    def read_text(self, z: Tensor, words: Tensor, around: Surroundings) -> Tensor:
        """T2P: the proxies read the words."""
        t = z.shape[1]
        proxies = self.proxies_from_text(
            rearrange(z, "b t n c -> b (t n) c"),
            words,
            context_position=around.words,
            context_valid=around.text_valid,
        )
        return rearrange(proxies, "b (t n) c -> b t n c", t=t)

    def read_video_space(self, r: Tensor, video: Tensor, around: Surroundings) -> Tensor:
        """V2P: a frame's proxies read that frame's tokens."""
        t = r.shape[1]
        proxies = self.proxies_from_video_space(
            rearrange(r, "b t n c -> (b t) n c"),
            rearrange(video, "b t h w c -> (b t) (h w) c"),
            context_position=around.places(t),
            context_valid=around.valid_tokens("(b t) (h w)"),
        )
        return rearrange(proxies, "(b t) n c -> b t n c", t=t)

    def read_video_time(self, r: Tensor, video: Tensor, around: Surroundings) -> Tensor:
        """V2P: a proxy's t copies read the t space-pooled video tokens, shared by the n proxies."""
        t, n = r.shape[1:3]
        proxies = self.proxies_from_video_time(
            rearrange(r, "b t n c -> b (t n) c"),
            masked_mean(video, around.video_valid, (2, 3)),
            x_position=around.times(n),
            context_position=around.time,
            context_valid=around.valid_frames(),
        )
        return rearrange(proxies, "b (t n) c -> b t n c", t=t)

    def read_video_space_time(self, r: Tensor, video: Tensor, around: Surroundings) -> Tensor:
        """``full``: all proxies of a video read the tokens of all its frames."""
        t, n = r.shape[1:3]
        proxies = self.proxies_from_video_space_time(
            rearrange(r, "b t n c -> b (t n) c"),
            rearrange(video, "b t h w c -> b (t h w) c"),
            x_position=around.times(n),
            context_position=around.places_and_times(t),
            context_valid=around.valid_tokens("b (t h w)"),
        )
        return rearrange(proxies, "b (t n) c -> b t n c", t=t)


class CMIEStack(nn.Module):
    """K stages, one after the other; each reads the backbone's words afresh.

    Args:
        layers: K; stage: the arguments of each :class:`CMIE`.
    """

    def __init__(self, *, layers: int, **stage: int | float | bool | str) -> None:
        super().__init__()
        self.stages = nn.ModuleList(CMIE(**stage) for _ in range(layers))

    def forward(
        self, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns ``F_v^K [b, t, h, w, c]`` and the proxies ``Q^1 … Q^K``, each ``[b, t, n, c]``."""
        stages = []
        for stage in self.stages:
            video, proxies = stage(video, proxies, text, around)
            stages.append(proxies)
        return video, stages
