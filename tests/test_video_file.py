"""Windows of frames of a video file: exactly the frames that decoding all of it gives, no more work than needed."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datasets.sampling import centred_window
from tests.mini_a2d import frame_number, write_video
from util.video.video_io import VideoFile


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """30 frames, a key frame every eighth."""
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    write_video(path, 30, (48, 80))
    return path


def numbers(frames: torch.Tensor) -> list[int]:
    return [frame_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize(("centre", "window"), [(0, [0, 0, 0, 1]), (5, [3, 4, 5, 6]), (9, [7, 8, 9, 9])])
def test_windows_repeat_the_ends(centre, window):
    assert centred_window(centre, 4, 10) == window


def test_the_centre_is_at_half_of_odd_and_even_windows():
    assert all(centred_window(20, n, 100)[n // 2] == 20 for n in range(1, 9))
    assert centred_window(1, 5, 2) == [0, 0, 1, 1, 1]


def test_frames_are_those_of_decoding_everything(long):
    with av.open(str(long)) as container:
        everything = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame_number(frame) for frame in everything] == list(range(1, 31))
    with VideoFile(long) as video:
        assert (len(video), video.size) == (30, (48, 80))
        for positions in ([0], [29], [12, 13, 14], [3, 3, 20, 1], [16], [8], [7], list(range(30))):
            frames = video.read(positions)
            assert frames.dtype == torch.uint8 and frames.shape == (len(positions), 3, 48, 80)
            for frame, position in zip(frames, positions, strict=True):
                assert (frame.permute(1, 2, 0).numpy() == everything[position]).all()


def test_only_what_a_clip_needs_is_decoded(long):
    decoded = []
    as_array = av.VideoFrame.to_ndarray
    with VideoFile(long) as video:
        container, video._container = video._container, None

        class Counting:
            def __getattr__(self, name):
                return getattr(container, name)

            def decode(self, stream):
                for frame in container.decode(stream):
                    decoded.append(frame_number(as_array(frame, format="rgb24")))
                    yield frame

        video._container = Counting()
        video.read([25, 26])
        assert decoded == [25, 26, 27]  # a key frame is the 25th, of number 24 from 0
        video._container = container


def test_a_video_without_key_frame_to_seek_is_read_from_its_start(tmp_path):
    path = tmp_path / "one_key.mp4"
    write_video(path, 20, (48, 80), gop=100)
    with VideoFile(path) as video:
        assert numbers(video.read([17, 18])) == [18, 19]


def test_damaged_videos_are_named(tmp_path):
    whole = tmp_path / "whole.mp4"
    write_video(whole, 20, (48, 80), gop=100)
    with pytest.raises(FileNotFoundError, match="gone.mp4: the video does not exist"):
        VideoFile(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(ValueError, match="text.mp4: the video is damaged .*docs/data.md"):
        VideoFile(tmp_path / "text.mp4")

    content = bytearray(whole.read_bytes())
    start = content.index(b"mdat") + 1200
    content[start : start + 1500] = bytes(1500)
    (tmp_path / "holes.mp4").write_bytes(content)
    with (
        VideoFile(tmp_path / "holes.mp4") as video,
        pytest.raises(ValueError, match=r"holes.mp4: the video is damaged"),
    ):
        video.read(range(20))

    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="sound.mp4: holds no video"):
        VideoFile(sound)
