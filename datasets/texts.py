"""The expressions of a data set with their places, for messages."""

from __future__ import annotations

import hashlib
import json
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


def digests(videos: Sequence[VideoEntry]) -> dict[str, str]:
    """What is asked of each video, its frames and texts, as a digest: masks of other ones are not its answer."""
    asked = {video.video_id: json.dumps([video.frame_names, video.expressions], sort_keys=True) for video in videos}
    return {video_id: hashlib.sha256(text.encode()).hexdigest()[:16] for video_id, text in asked.items()}
