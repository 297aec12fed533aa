"""A user's film, folder or image: upright, in time, in part, and what is wrong with it in one line."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.mini_a2d import frame_number
from tests.mini_films import PHONE_TIMES, SIZE, counting, scene, write_film, write_sound
from util.video.own_video import open_video, upright
from util.video.video_io import VideoFile


def numbers(frames: torch.Tensor) -> list[int]:
    return [frame_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]


def pictures(video) -> list[np.ndarray]:
    return list(video.read(range(len(video))).permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("film") / "phone.mp4", scene(6), PHONE_TIMES)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """30 frames, 25 in a second."""
    return write_film(tmp_path_factory.mktemp("film") / "long.mp4", scene(30))


@pytest.fixture
def folder(tmp_path):
    """12 frames, written in the order that a computer would sort them in."""
    for number, picture in sorted(enumerate(scene(12), 1), key=lambda n: str(n[0])):
        Image.fromarray(picture).save(tmp_path / f"f{number}.png")
    (tmp_path / "Thumbs.db").write_text("not a frame")
    (tmp_path / ".f0.png").write_text("hidden")
    return tmp_path


# What is read --------------------------------------------------------------------------------------------------------


def test_frames_keep_their_times(phone):
    with open_video(phone) as video:
        assert (len(video), video.size, video.is_image) == (6, SIZE, False)
        assert video.times[:-1] == pytest.approx(PHONE_TIMES, abs=1e-6)
        assert video.times[-1] == pytest.approx(0.54, abs=1e-3)
        assert video.names[:2] == ["00000", "00001"]
        frames = video.read([4, 0])
        assert frames.dtype == torch.uint8 and frames.shape == (2, 3, *SIZE)
        assert numbers(frames) == [5, 1]
        assert numbers(video.read(range(6))) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mov", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("mkv", "libx264")]
)
def test_containers(tmp_path, suffix, codec):
    path = write_film(tmp_path / f"film.{suffix}", scene(6), PHONE_TIMES, codec=codec)
    with open_video(path) as video:
        assert numbers(video.read([0, 1, 2])) + numbers(video.read([3, 4, 5])) == [1, 2, 3, 4, 5, 6]
        assert video.times[:-1] == pytest.approx(PHONE_TIMES, abs=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "avi"])
def test_any_position_of_a_film_with_b_frames(tmp_path, suffix):
    """Containers differ in whether they seek by when a frame is shown or decoded."""
    with open_video(write_film(tmp_path / f"film.{suffix}", scene(24))) as video:
        assert [numbers(video.read([p]))[0] for p in (0, 9, 23, 8, 7, 16, 1, 15)] == [1, 10, 24, 9, 8, 17, 2, 16]


@pytest.mark.parametrize("fps", [25, 1000])
@pytest.mark.parametrize(("codec", "ahead"), [("libx264", 0), ("libx264", 2), ("mpeg4", 0), ("mpeg4", 2), ("mjpeg", 0)])
def test_an_avi_knows_nothing_of_the_order(tmp_path, codec, ahead, fps):
    """Frames of it are not where FFmpeg says; ``ahead``: B-frames. Its rate is that of the frames, or has gaps."""
    with av.open(str(tmp_path / "old.avi"), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": str(ahead)} if ahead else {})
        stream.codec_context.time_base = Fraction(1, fps)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size, stream.bit_rate = 8, 4_000_000
        for i, frame in enumerate(scene(24)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i * fps // 25, stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with open_video(tmp_path / "old.avi") as video:
        assert numbers(video.read(range(24))) == list(range(1, 25)) and not video.damaged
        assert [numbers(video.read([p]))[0] for p in (9, 23, 8, 0, 7, 16, 1, 15)] == [10, 24, 9, 1, 8, 17, 2, 16]
        assert video.times == pytest.approx([i / 25 for i in range(25)], abs=1e-6)


def test_a_film_that_a_phone_has_trimmed(tmp_path):
    """The file still has the key frame before, which an edit list hides."""
    whole = write_film(tmp_path / "whole.mp4", scene(20))
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "part.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as part,
    ):
        stream = part.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(0.2 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                part.mux(packet)
    with open_video(tmp_path / "part.mp4") as video:
        assert numbers(video.read(range(len(video)))) == list(range(6, 21))
        assert numbers(video.read([4])) == [10] and video.times[1] == pytest.approx(0.04)


@pytest.mark.parametrize("mirror", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_films_are_upright(tmp_path, degrees, mirror):
    path = write_film(tmp_path / "turned.mp4", scene(2), turn=(degrees, *mirror))
    with VideoFile(path) as stored, open_video(path) as video:
        assert stored.size == SIZE
        assert video.size == (SIZE if degrees in (0, 180) else SIZE[::-1])
        for lying, shown in zip(pictures(stored), pictures(video), strict=True):
            expected = np.rot90(lying, degrees // 90)
            expected = expected[:, ::-1] if mirror[0] else expected
            assert np.array_equal(shown, expected[::-1] if mirror[1] else expected)


def test_a_phone_held_upright():
    """Its sensor lies on its side, and the display matrix turns the picture clockwise."""
    lying = np.array([[1, 2, 3], [4, 5, 6]])
    matrix = np.array([[0, 1 << 16, 0], [-1 << 16, 0, 0], [2 << 16, 0, 1 << 30]])
    assert upright(lying, matrix).tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_folder_is_in_natural_order(tmp_path, folder, suffix):
    if suffix == "jpg":
        for path in folder.glob("f*.png"):
            Image.open(path).save(path.with_suffix(".JPG"), quality=98)
            path.unlink()
    with open_video(folder) as video:
        assert numbers(video.read(range(12))) == list(range(1, 13))
        assert video.names[:3] == ["f1", "f2", "f3"] and video.names[-1] == "f12"
        assert video.times == pytest.approx([i / 24 for i in range(13)])
        assert (video.size, video.is_image) == (SIZE, False)
    assert open_video(folder, fps=5).times[:3] == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path, orientation):
    image = Image.fromarray(scene(1)[0])
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(tmp_path / "photo.png", exif=exif)
    with open_video(tmp_path / "photo.png") as video:
        assert video.is_image and len(video) == 1 and video.names == ["photo"]
        (shown,) = pictures(video)
        turns = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}
        quarters, mirrored = turns[orientation]
        expected = np.rot90(scene(1)[0], quarters)
        assert video.size == expected.shape[:2]
        assert np.array_equal(shown, expected[:, ::-1] if mirrored else expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_any_mode(tmp_path, mode):
    Image.fromarray(scene(1)[0]).convert(mode).save(tmp_path / "image.png")
    assert open_video(tmp_path / "image.png").read([0]).shape == (1, 3, *SIZE)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path, kind):
    ramp = np.arange(0, 65536, 256).reshape(16, 16)
    Image.fromarray(ramp.astype(kind)).save(tmp_path / "x.tif")
    with open_video(tmp_path / "x.tif") as video:
        assert (pictures(video)[0] == (ramp // 256)[..., None]).all()


def test_images_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "x.tif")
    with open_video(tmp_path / "x.tif") as video, pytest.raises(ValueError, match=r"x.tif.*floating-point"):
        video.read([0])


def test_what_is_closed_is_not_read_on(long):
    with open_video(long) as video:
        video.read([3])
    with pytest.raises(ValueError, match="long.mp4 has been closed"):
        video.read([20])


def test_a_single_pixel(tmp_path):
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "dot.png")
    assert open_video(tmp_path / "dot.png").read([0]).flatten().tolist() == [9, 8, 7]
    frames = [np.full((1, 1, 3), value, np.uint8) for value in (10, 200)]
    with open_video(write_film(tmp_path / "dot.mkv", frames, codec="ffv1", pixels="bgr0")) as video:
        assert video.read([0, 1])[:, 0].flatten().tolist() == [10, 200]


def test_a_size_that_changes_on_the_way(tmp_path, long):
    """As in recordings of calls: all frames are given the size of the first."""
    with av.open(str(tmp_path / "call.ts"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in scene(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    with av.open(str(tmp_path / "later.ts"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for i, frame in enumerate(scene(3, (96, 160))):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = i + 10
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    with (tmp_path / "call.ts").open("ab") as file:
        file.write((tmp_path / "later.ts").read_bytes())
    with open_video(tmp_path / "call.ts") as video:
        assert video.read(range(len(video))).shape == (len(video), 3, *SIZE) and len(video) > 3


# A part of it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "shown", "times"),
    [
        ({}, [1, 2, 3, 4, 5, 6], [*PHONE_TIMES]),
        ({"every": 2}, [1, 3, 5], [0, 0.067, 0.333]),
        ({"every": 4}, [1, 5], [0, 0.333]),
        ({"every": 100}, [1], [0]),
        ({"start": 0.067}, [3, 4, 5, 6], [0, 0.233, 0.266, 0.433]),
        ({"start": 0.05, "every": 2}, [3, 5], [0, 0.266]),
        ({"end": 0.3}, [1, 2, 3], [0, 0.033, 0.067]),
        ({"start": 0.01, "end": 0.4, "every": 3}, [2, 5], [0, 0.3]),
        ({"start": 0.4}, [6], [0]),
        ({"end": 99}, [1, 2, 3, 4, 5, 6], [*PHONE_TIMES]),
    ],
)
def test_parts_of_a_film_are_in_seconds(phone, part, shown, times):
    with open_video(phone, **part) as video:
        assert numbers(video.read(range(len(video)))) == shown
        assert video.times[:-1] == pytest.approx(times, abs=1e-6)
        assert video.names == [f"{number - 1:05d}" for number in shown]


def test_the_last_frame_taken_lasts_until_the_end_of_the_part(phone):
    assert open_video(phone, every=2, end=0.4).times == pytest.approx([0, 0.067, 0.333, 0.5], abs=1e-6)
    assert open_video(phone, every=2, end=0.3).times == pytest.approx([0, 0.067, 0.3], abs=1e-6)
    assert open_video(phone, every=4).times[-1] == open_video(phone).times[-1]


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"start": 9}, [10, 11, 12]),
        ({"end": 2}, [1, 2]),
        ({"start": 1, "end": 8, "every": 3}, [2, 5, 8]),
        ({"every": 5}, [1, 6, 11]),
    ],
)
def test_parts_of_a_folder_are_in_frames(folder, part, shown):
    video = open_video(folder, **part)
    assert numbers(video.read(range(len(video)))) == shown
    assert video.names == [f"f{number}" for number in shown]


# No more work than needed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gop", [8, 100, 1])
def test_reading_on_decodes_every_frame_once(tmp_path, gop):
    path = write_film(tmp_path / "film.mp4", scene(30), gop=gop)
    with VideoFile(path) as video:
        decoded = counting(video)
        found = [n for start in range(0, 30, 7) for n in numbers(video.read(range(start, min(30, start + 7))))]
        assert found == list(range(1, 31)) and len(decoded) == 30


def test_windows_that_overlap_decode_every_frame_once(long):
    with VideoFile(long) as video:
        decoded = counting(video)
        for start in range(0, 20, 5):
            assert numbers(video.read(range(start, start + 10))) == list(range(start + 1, start + 11))
        assert len(decoded) == 25


def test_what_is_skipped_is_decoded_only_where_no_key_frame_helps(long):
    """A key frame is every eighth, so of every tenth frame the one at 10 needs 8 and 9."""
    with VideoFile(long) as video:
        decoded = counting(video)
        assert [numbers(video.read([position]))[0] for position in (0, 10, 20)] == [1, 11, 21]
        assert len(decoded) == 1 + 3 + 5
        assert numbers(video.read([2])) == [3]  # and back
        assert numbers(video.read([2, 3])) == [3, 4]
        assert len(decoded) == 9 + 3 + 1


def test_a_part_is_decoded_from_the_key_frame_before_it(long):
    with open_video(long, start=0.8, end=1.0) as video:
        decoded = counting(video._source)
        assert numbers(video.read([0, 1])) + numbers(video.read([2, 3, 4])) == [21, 22, 23, 24, 25]
        assert len(decoded) == 9  # from number 17 on


# What is wrong with it -----------------------------------------------------------------------------------------------


def test_a_damaged_frame_gives_way_to_the_one_before(tmp_path):
    content = bytearray(write_film(tmp_path / "whole.mp4", scene(20), codec="mjpeg", pixels="yuvj420p").read_bytes())
    starts = [i for i in range(len(content)) if content[i : i + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 20
    for number in (5, 6):
        content[starts[number] : starts[number + 1]] = bytes(starts[number + 1] - starts[number])
    (tmp_path / "holes.mp4").write_bytes(content)
    with open_video(tmp_path / "holes.mp4") as video:
        assert len(video) == 20
        assert numbers(video.read(range(6))) + numbers(video.read(range(6, 9))) == [1, 2, 3, 4, 5, 5, 5, 8, 9]
        assert video.damaged == 2
    with VideoFile(tmp_path / "holes.mp4") as strict, pytest.raises(ValueError, match="the video is damaged"):
        strict.read(range(20))


def test_a_film_that_was_cut_short(tmp_path):
    whole = write_film(tmp_path / "whole.mkv", scene(20), gop=4).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    with open_video(tmp_path / "cut.mkv") as video:
        shown = numbers(video.read(range(len(video))))
        good = len(video) - video.damaged
        assert 5 < good < 20 and shown[:good] == list(range(1, good + 1))


def _empty_film(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()


def test_what_cannot_be_read_is_named(tmp_path, phone):
    def refusal(name: str, error: type = ValueError, **part) -> str:
        with pytest.raises(error) as raised:
            open_video(tmp_path / name, **part)
        assert str(tmp_path / name) in str(raised.value)
        return str(raised.value)

    assert "no such file or folder; give a video, a folder of frames" in refusal("gone.mp4", FileNotFoundError)
    (tmp_path / "empty.mp4").touch()
    assert "the file is empty; copy or download it again" in refusal("empty.mp4")
    for name in ("text.mp4", "text"):
        (tmp_path / name).write_text("no video at all")
        assert "the video is damaged" in refusal(name) and "ffmpeg -i VIDEO NEW.mp4" in refusal(name)
    (tmp_path / "text.jpg").write_text("no image at all")
    assert "the image cannot be read" in refusal("text.jpg")
    (tmp_path / "folder").mkdir()
    assert "holds no JPEG or PNG" in refusal("folder")
    write_sound(tmp_path / "sound.m4a")
    assert "holds no video" in refusal("sound.m4a")
    write_sound(tmp_path / "album.mp4", cover=True)
    assert "holds no video" in refusal("album.mp4")
    write_film(tmp_path / "bare.h264", scene(9))
    assert "its frames have no times of their own); if a player can show it, convert it" in refusal("bare.h264")
    _empty_film(tmp_path / "none.mp4")
    assert "holds no video" in refusal("none.mp4")
    content = bytearray(phone.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - start)
    (tmp_path / "zeros.mp4").write_bytes(content)
    assert "the video is damaged (no frame of it can be decoded)" in refusal("zeros.mp4")


def test_folders_that_are_no_video_are_named(folder):
    def refusal() -> str:
        with pytest.raises(ValueError) as raised:
            open_video(folder)
        return str(raised.value)

    Image.new("RGB", (4, 5)).save(folder / "mask.png")
    assert "mask.png: is 4x5 pixels, but f1.png is 80x48" in refusal()
    (folder / "mask.png").unlink()
    Image.fromarray(scene(1)[0]).save(folder / "f7.jpg")
    assert "holds f7.jpg and f7.png; leave one image for each frame" in refusal()
    (folder / "f7.jpg").unlink()
    whole = (folder / "f3.png").read_bytes()
    (folder / "f3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="f3.png: the image cannot be read .*take it out, or copy it again"):
        open_video(folder).read(range(5))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"start": 5}, r"--start 5 leaves no frame of .*, which has 6 frames in 0.\d\d seconds"),
        ({"start": 0.4, "end": 0.3}, "--start 0.4 --end 0.3 leaves no frame of"),
        ({"end": 0}, "--end 0 leaves no frame of"),
        ({"start": -1}, "--start -1 is not a number of at least 0"),
        ({"end": float("nan")}, "--end nan is not a number"),
        ({"every": 0}, "--every 0: take every frame with 1"),
        ({"fps": 0}, "--fps 0 is not a number above 0"),
        ({"fps": 10}, "--fps is for a folder of frames"),
    ],
)
def test_parts_that_are_none(phone, part, message):
    with pytest.raises(ValueError, match=message):
        open_video(phone, **part)


def test_parts_of_a_folder_that_are_none(folder):
    with pytest.raises(ValueError, match="--start 12 leaves no frame of .*, which has 12 frames, from 0;"):
        open_video(folder, start=12)
    with pytest.raises(ValueError, match=r"--start 1.5: the frames of .* are counted, so this must be a whole number"):
        open_video(folder, start=1.5)
    with pytest.raises(ValueError, match="--start 1 leaves no frame of .*, which has 1 frame, number 0;"):
        open_video(folder / "f1.png", start=1)
