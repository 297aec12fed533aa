"""The expressions of a data set with their places, for messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from datasets.base import EvalClip, TrainVideo, VideoEntry


def training_texts(sets: Mapping[str, Sequence[TrainVideo]]) -> Iterator[tuple[str, str]]:
    """Pairs of a place (data set, video, expression) and a text, for every expression of the training videos."""
    for name, videos in sets.items():
        for video in videos:
            for expression in video.expressions:
                yield f"{name}, video {video.video_id}, expression {expression.exp_id}", expression.text


def asked_texts(name: str, videos: Sequence[VideoEntry | EvalClip]) -> Iterator[tuple[str, str]]:
    """The same for the expressions of a split of the data set ``name`` at inference."""
    for video in videos:
        video_id = video.clip_id if isinstance(video, EvalClip) else video.video_id
        for exp_id, text in video.expressions.items():
            yield f"{name}, video {video_id}, expression {exp_id}", text


def digests(videos: Sequence[VideoEntry]) -> dict[str, str]:
    """A digest of the frames and texts of each video. Masks with another digest belong to another list."""
    asked = {video.video_id: json.dumps([video.frame_names, video.expressions], sort_keys=True) for video in videos}
    return {video_id: hashlib.sha256(text.encode()).hexdigest()[:16] for video_id, text in asked.items()}
