"""The expressions of a data set with their places, for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from datasets.base import EvalClip, TrainVideo, VideoEntry


def training_texts(sets: Mapping[str, Sequence[TrainVideo]]) -> Iterator[tuple[str, str]]:
    """Data set, video and expression, and the text, of every expression of the training videos of some sets."""
    for name, videos in sets.items():
        for video in videos:
            for expression in video.expressions:
                yield f"{name}, video {video.video_id}, expression {expression.exp_id}", expression.text


def asked_texts(name: str, videos: Sequence[VideoEntry | EvalClip]) -> Iterator[tuple[str, str]]:
    """The same of what is asked at inference, of a split of the data set ``name``."""
    for video in videos:
        video_id = video.clip_id if isinstance(video, EvalClip) else video.video_id
        for exp_id, text in video.expressions.items():
            yield f"{name}, video {video_id}, expression {exp_id}", text
