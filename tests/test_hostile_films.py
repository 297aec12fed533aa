"""Films that were made to do harm, or by careless programs: they are read, or refused in one line at no cost."""

from __future__ import annotations

import os
import struct

import av
import pytest

from tests.mini_films import SIZE, scene, write_film
from tests.test_own_video import numbers
from util.video.own_video import open_video
from util.video.video_io import VideoFile


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "webm"])
def test_titles_in_any_encoding_do_not_matter(tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caféX"
        stream = container.add_stream("libvpx" if suffix == "webm" else "libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number, frame in enumerate(scene(3)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert content.count("caféX".encode()) == 1
    path.write_bytes(content.replace("caféX".encode(), b"caf\xe9XX"))  # in latin-1
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    with open_video(path) as video, VideoFile(path) as stored:
        assert numbers(video.read(range(3))) == [1, 2, 3] and len(stored) == 3


def claiming(path, samples: int, padding: int = 0) -> None:
    """Makes the header of an mp4 claim so many frames of one byte each, and the file larger."""
    content = bytearray(path.read_bytes())
    for box, place, values in (
        (b"stsz", 8, (1, samples)),
        (b"stsc", 12, (1, samples, 1)),
        (b"stts", 12, (samples, 9)),
    ):
        at = content.index(box) + place
        content[at : at + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    path.write_bytes(content + struct.pack(">I4s", padding + 8, b"free") + bytes(padding))


@pytest.mark.parametrize(
    ("samples", "padding", "first"), [(30_000_000, 0, b""), (60_000, 90_000, b""), (30_000_000, 0, b"pnot")]
)
def test_a_header_that_claims_too_many_frames_costs_nothing(tmp_path, samples, padding, first):
    """FFmpeg takes 70 bytes for each frame that it is told of, and minutes to seek among a million; whatever box comes
    first."""
    path = write_film(tmp_path / "film.mp4", scene(3))
    claiming(path, samples, padding)
    path.write_bytes((struct.pack(">I4s", 20, first) + bytes(12) if first else b"") + path.read_bytes())
    for read in (open_video, VideoFile):
        with pytest.raises(ValueError, match=rf"film\.mp4: the video is damaged \(it.* {samples:,} frames .* bytes"):
            read(path)


def test_a_film_of_more_pixels_than_are_read_is_refused(tmp_path, monkeypatch):
    """By its header in one film, by its frames in the other, of which the header says nothing."""
    monkeypatch.setattr("util.video.video_io.MOST_PIXELS", SIZE[0] * SIZE[1] - 1)
    for name in ("film.mp4", "film.ts"):
        path = write_film(tmp_path / name, scene(3))
        with pytest.raises(ValueError, match=rf"{name}: .*(claims to be 80x48 pixels|no frame of it can be decoded)"):
            open_video(path)


def test_a_film_of_too_many_frames_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("util.video.video_io.MOST_FRAMES", 2)
    with pytest.raises(ValueError, match=r"film\.mp4: has more than 2 frames; cut it into parts"):
        open_video(write_film(tmp_path / "film.mp4", scene(3)))


@pytest.mark.parametrize("name", ["film.mp4", "image.png"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: is a pipe"):
        open_video(tmp_path / name)
    with pytest.raises(ValueError, match="is a pipe"):
        VideoFile(tmp_path / name)
    if name == "image.png":
        with pytest.raises(ValueError, match=r"image\.png: is a pipe"):
            open_video(tmp_path)
