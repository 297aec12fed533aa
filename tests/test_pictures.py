"""Pictures and masks of every kind: the right colours and ids, upright; what does not say them is refused by name."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from davis2017 import label_maps
from util.masks.results import LABEL_PALETTE
from util.video.pictures import (
    check_size,
    find_files,
    image_size,
    orientation,
    read_frame,
    read_frames,
    read_label_maps,
    read_labels,
)

RNG = np.random.default_rng(0)
# blocks of one colour, which even a JPEG with halved colours keeps
COLOURS = np.kron(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
GREY = COLOURS[..., :1].repeat(3, -1)
# a quarter turn, then mirrored: as in a table of EXIF orientations
TURNS = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}


def shown(picture: np.ndarray, value: int) -> np.ndarray:
    quarters, mirrored = TURNS[value]
    turned = np.rot90(picture, quarters)
    return turned[:, ::-1] if mirrored else turned


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        frame = read_frame(path)
    assert frame.dtype == torch.uint8 and frame.shape[0] == 3
    assert tuple(frame.shape[1:]) == image_size(path)
    return frame.permute(1, 2, 0).numpy()


def save_png(path: Path, array: np.ndarray) -> None:
    """As OpenCV writes it, which knows colours of 16 bits."""
    order = {2: np.s_[:], 3: np.s_[..., [2, 1, 0]], 4: np.s_[..., [2, 1, 0, 3]]}
    channels = 2 if array.ndim == 2 else array.shape[-1]
    assert cv2.imwrite(str(path), array[order[channels]])


# -------------------------------------------------------------------------------------------------------- pictures

DEEP = COLOURS.astype(np.uint16) * 256 + 0x5A  # of whose low bytes no colour can be told
ALPHA = RNG.integers(0, 256, COLOURS.shape[:2]).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "write", "expected", "most"),
    [
        ("grey.jpg", lambda p: Image.fromarray(GREY[..., 0]).save(p, quality=98), GREY, 2),
        ("progressive.jpg", lambda p: Image.fromarray(COLOURS).save(p, quality=98, progressive=True), COLOURS, 4),
        ("cmyk.jpg", lambda p: Image.fromarray(COLOURS).convert("CMYK").save(p, quality=98), COLOURS, 4),
        ("rgb.webp", lambda p: Image.fromarray(COLOURS).save(p, lossless=True), COLOURS, 0),
        ("rgb.bmp", lambda p: Image.fromarray(COLOURS).save(p), COLOURS, 0),
        ("rgb.tif", lambda p: Image.fromarray(COLOURS).save(p), COLOURS, 0),
        ("lzw.tiff", lambda p: Image.fromarray(COLOURS).save(p, compression="tiff_lzw"), COLOURS, 0),
        ("grey.png", lambda p: Image.fromarray(GREY[..., 0]).save(p), GREY, 0),
        ("rgba.png", lambda p: Image.fromarray(np.dstack([COLOURS, ALPHA])).save(p), COLOURS, 0),
        ("la.png", lambda p: Image.fromarray(np.dstack([GREY[..., 0], ALPHA])).save(p), GREY, 0),
        ("palette.png", lambda p: Image.fromarray(COLOURS).quantize(24).save(p), COLOURS, 0),
        ("clear.png", lambda p: Image.fromarray(COLOURS).quantize(24).save(p, transparency=bytes(24)), COLOURS, 0),
        ("one_clear.png", lambda p: Image.fromarray(COLOURS).quantize(24).save(p, transparency=3), COLOURS, 0),
        ("1.png", lambda p: Image.fromarray(GREY[..., 0] > 99).save(p), np.where(GREY > 99, 255, 0), 0),
        ("grey16.png", lambda p: save_png(p, DEEP[..., 0]), GREY, 0),
        ("rgb16.png", lambda p: save_png(p, DEEP), COLOURS, 0),
        ("rgba16.png", lambda p: save_png(p, np.dstack([DEEP, DEEP[..., :1]])), COLOURS, 0),
        ("rgb16.tif", lambda p: save_png(p, DEEP), COLOURS, 0),
        ("grey16.tif", lambda p: Image.fromarray(DEEP[..., 0]).save(p), GREY, 0),
        # what a file is called does not decide what it is
        ("png_called.jpg", lambda p: Image.fromarray(COLOURS).save(p, "PNG"), COLOURS, 0),
        ("jpeg_called.png", lambda p: Image.fromarray(COLOURS).save(p, "JPEG", quality=98), COLOURS, 4),
    ],
)
def test_every_mode_and_depth_gives_its_colours(tmp_path, name, write, expected, most):
    write(tmp_path / name)
    inner = np.zeros((16, 16), bool)  # chroma of JPEGs runs over the edges of blocks
    inner[4:-4, 4:-4] = True
    seen = np.ones(COLOURS.shape[:2], bool) if not most else np.tile(inner, (4, 6))
    difference = np.abs(read(tmp_path / name).astype(int) - np.asarray(expected).astype(int))
    assert difference[seen].max() <= most


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shades_of_few_bits_are_spread(tmp_path, depth):
    shades = np.arange(2**depth, dtype=np.uint8)[None].repeat(5, 0)
    (tmp_path / "x.png").write_bytes(_png(shades, depth, 0))
    assert (read(tmp_path / "x.png")[..., 0] == shades * (255 // (2**depth - 1))).all()


def _png(values: np.ndarray, depth: int, colour: int) -> bytes:
    """A PNG of these samples of 1, 2 or 4 bits, which no library here writes."""
    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FORMATS = {
    "jpg": {"quality": 98, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("value", TURNS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_pictures_are_upright(tmp_path, suffix, value):
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x112] = value
    image.save(tmp_path / f"x.{suffix}", exif=exif, **FORMATS[suffix])
    expected = shown(COLOURS, value).astype(int)
    assert image_size(tmp_path / f"x.{suffix}") == expected.shape[:2]
    assert np.abs(read(tmp_path / f"x.{suffix}") - expected).max() <= (3 if suffix == "jpg" else 0)
    assert orientation(tmp_path / f"x.{suffix}") == value


def test_jpegs_are_what_torchvision_makes_of_them(tmp_path):
    exif = Image.Exif()
    exif[0x10F] = "a camera that says no orientation"
    noise = RNG.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for name, kind in {"plain.jpg": {}, "tagged.jpg": {"exif": exif}}.items():
        Image.fromarray(noise).save(tmp_path / name, **kind)
        assert torch.equal(read_frame(tmp_path / name), decode_image(str(tmp_path / name), ImageReadMode.RGB))
    content = (tmp_path / "tagged.jpg").read_bytes()
    odd = content.replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    assert odd != content
    (tmp_path / "odd.jpg").write_bytes(odd)
    assert torch.equal(read_frame(tmp_path / "odd.jpg"), read_frame(tmp_path / "plain.jpg"))


@pytest.mark.parametrize("value", [0, 9, 300])
def test_orientations_that_are_none_turn_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[0x112] = value
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
    assert (read(tmp_path / "x.png") == COLOURS).all() and orientation(tmp_path / "x.png") == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((4, 4), np.float32),
            "its pixels are floating-point numbers, and nothing says which of them is white",
        ),
        (np.full((4, 4), 70000, np.int32), "its pixels are numbers of more than 16 bits"),
        (np.full((4, 4), -1, np.int32), "its pixels are numbers of more than 16 bits"),
    ],
)
def test_pictures_without_a_white_are_refused(tmp_path, array, message):
    Image.fromarray(array).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif: {message}.*convert it to 8 or 16 bits"):
        read_frame(tmp_path / "x.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_damaged_pictures_are_one_line(tmp_path, suffix):
    buffer = BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
        buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
    )
    whole = buffer.getvalue()
    for content in (b"", b"no", whole[:2], whole[:30], whole[: len(whole) // 2], b"\xff\xd8\xff" + whole[3:9]):
        (tmp_path / f"x.{suffix}").write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"x\.{suffix}: the frame is damaged or not an image.*docs/data\.md"
        ) as found:
            read_frame(tmp_path / f"x.{suffix}")
        assert "\n" not in str(found.value) and "BytesIO" not in str(found.value)


def test_files_that_are_absent_or_closed_to_the_reader(tmp_path):
    with pytest.raises(FileNotFoundError, match="the frame does not exist"):
        read_frame(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError, match="the mask does not exist"):
        read_labels(tmp_path)
    with pytest.raises(OSError, match=r"aaa: cannot be read \(File name too long\)"):
        read_frame(tmp_path / ("a" * 300))


def huge(path: Path) -> None:
    """A picture of which only the header is large."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix, path.suffix[1:]))
    content = bytearray(buffer.getvalue())
    if path.suffix == ".jpg":
        at = content.index(b"\xff\xc0")
        content[at + 5 : at + 9] = b"\xff" * 4
    elif path.suffix == ".png":
        content[16:24] = struct.pack(">II", 10**5, 10**5)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif path.suffix == ".bmp":
        content[18:26] = struct.pack("<ii", 10**5, 10**5)
    else:
        for tag in (256, 257):
            at = content.index(struct.pack("<H", tag), 4)
            content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 10**5)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
def test_pictures_that_claim_to_be_huge_cost_nothing(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    huge(path)
    tracemalloc.start()
    for reader in (read_frame, read_labels, image_size):
        with pytest.raises(ValueError, match=rf"x\.{suffix}: .*claims more than 134,217,728 pixels"):
            reader(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_jpeg_that_hides_a_larger_header_is_not_decoded_by_the_smaller_one(tmp_path):
    """Decoders do not skip what follows a marker without a length; a reader that does would see the second header."""
    (tmp_path / "x.jpg").write_bytes(b"")
    huge(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    at = content.index(b"\xff\xc0")
    small = content[at : at + 5] + b"\0\x08\0\x08" + content[at + 9 :]
    hidden = content[:at] + b"\xff\xd0" + content[at:]
    (tmp_path / "x.jpg").write_bytes(hidden + bytes(at + 4 + 0xFFC0 - len(hidden)) + small)
    with pytest.raises(ValueError, match=r"x\.jpg: the frame is damaged"):
        read_frame(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (os.mkfifo, "is a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
        (lambda path: (path.touch(), os.truncate(path, 2**40)), "has 1,099,511,627,776 bytes"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not readable as JPEG"),
        (lambda path: Image.new("P", (8, 8)).save(path, "GIF"), "not readable as JPEG, PNG, BMP, WEBP or TIFF"),
    ],
)
def test_what_is_no_picture_is_neither_waited_for_nor_opened(tmp_path, damage, message):
    damage(tmp_path / "x.png")
    for reader in (read_frame, read_labels, image_size, orientation, label_maps.read_labels):
        with pytest.raises(ValueError, match=rf"x\.png: .*{message}"):
            reader(tmp_path / "x.png")


def test_pictures_of_a_data_set_may_be_links(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "kept.png")
    (tmp_path / "x.png").symlink_to(tmp_path / "kept.png")
    assert (read(tmp_path / "x.png") == COLOURS).all()


# ----------------------------------------------------------------------------------------------------------- masks

IDS = np.kron(RNG.integers(0, 8, (3, 4), dtype=np.uint8), np.ones((4, 4), np.uint8))
PALETTE = np.frombuffer(LABEL_PALETTE, np.uint8).reshape(-1, 3)
# train/Annotations/003234408d of YouTube-VOS
YOUTUBE_VOS = np.array(
    [(0, 0, 0), (236, 95, 103), (249, 145, 87), (250, 200, 99), (153, 199, 148), (98, 179, 178), (102, 153, 204)]
    + [(197, 148, 197)],
    np.uint8,
)


def _palette(path: Path, ids: np.ndarray, **kind) -> None:
    image = Image.fromarray(ids)
    image.putpalette(LABEL_PALETTE)
    image.save(path, **kind)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda p: _palette(p, IDS), IDS),
        (lambda p: _palette(p, IDS, bits=4), IDS),
        (lambda p: _palette(p, IDS, transparency=0), IDS),
        (lambda p: Image.fromarray(IDS).save(p), IDS),
        (lambda p: Image.fromarray(IDS + 200).save(p), IDS + 200),
        (lambda p: Image.fromarray(IDS > 3).save(p), IDS > 3),
        (lambda p: p.write_bytes(_png(IDS, 4, 0)), IDS),
        (lambda p: p.write_bytes(_png(IDS // 2, 2, 0)), IDS // 2),
        (lambda p: Image.fromarray(IDS.astype(np.uint16)).save(p), IDS),
        (lambda p: Image.fromarray(np.dstack([IDS, ALPHA[:12, :16]])).save(p), IDS),
        (lambda p: Image.fromarray(IDS[..., None].repeat(3, -1)).save(p), IDS),
        (lambda p: Image.fromarray(np.dstack([IDS] * 3 + [ALPHA[:12, :16]])).save(p), IDS),
        (lambda p: Image.fromarray(PALETTE[IDS]).save(p), IDS),
        (lambda p: Image.fromarray(YOUTUBE_VOS[IDS]).save(p), IDS),
        (lambda p: Image.new("RGB", (16, 12)).save(p), IDS * 0),
    ],
)
def test_masks_of_every_mode_give_their_ids(tmp_path, write, expected):
    write(tmp_path / "x.png")
    for read_mask in (read_labels, label_maps.read_labels):
        ids = read_mask(tmp_path / "x.png")
        assert ids.dtype == np.uint8 and (ids == expected).all()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: Image.fromarray(COLOURS).save(p), "not a PNG of mode RGB whose colours stand for no ids"),
        # object 7 of DAVIS's palette is this grey
        (
            lambda p: Image.fromarray(np.where(IDS == 7, 128, 0).astype(np.uint8)[..., None].repeat(3, -1)).save(p),
            "RGB",
        ),
        (lambda p: Image.fromarray(PALETTE[IDS] // 3).save(p), "mode RGB"),
        (lambda p: save_png(p, IDS.astype(np.uint16)[..., None].repeat(3, -1)), "not a PNG of mode RGB"),
        (lambda p: Image.fromarray(IDS).save(p, "JPEG"), "not a JPEG of mode L whose compression changes ids"),
        (lambda p: Image.fromarray(IDS.astype(np.uint16) * 257).save(p), "holds the value 1799, but ids are 0 to 255"),
        (lambda p: Image.fromarray(np.zeros((4, 4), np.float32)).save(p, "TIFF"), "mode F"),
    ],
)
def test_masks_that_do_not_say_their_ids_are_refused(tmp_path, write, message):
    write(tmp_path / "x.png")
    for read_mask in (read_labels, label_maps.read_labels):
        with pytest.raises(ValueError, match=rf"x\.png: .*{message}.*docs/data\.md"):
            read_mask(tmp_path / "x.png")


def test_masks_are_turned_as_their_own_file_says(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    _palette(tmp_path / "x.png", IDS, exif=exif)
    assert (read_labels(tmp_path / "x.png") == shown(IDS, 6)).all()


def test_frames_without_a_mask_hold_no_ids(tmp_path):
    _palette(tmp_path / "x.png", IDS + 1)
    maps = read_label_maps([None, tmp_path / "x.png", None, None], IDS.shape)
    assert (maps[1, 0].numpy() == IDS + 1).all() and not maps[[0, 2, 3]].any()


# ----------------------------------------------------------------------------------------------------- sizes, files


def test_sizes_that_an_orientation_exchanges_are_said_so(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(COLOURS).save(tmp_path / "plain.jpg")
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "mask.png")
    size = image_size(tmp_path / "turned.jpg")
    with pytest.raises(
        ValueError, match=r"mask\.png: is 96x64 pixels, but its frame is 64x96; turned\.jpg has EXIF orien"
    ):
        read_label_maps([tmp_path / "mask.png"], size, [tmp_path / "turned.jpg"])
    with pytest.raises(
        ValueError, match=r"turned\.jpg has EXIF orientation 6 and is read upright.*exiftool -Orientation="
    ):
        read_frames([tmp_path / "plain.jpg", tmp_path / "turned.jpg"])
    # not where something else is wrong
    with pytest.raises(ValueError, match="restore whichever is wrong"):
        check_size("mask", (5, 7), size, "its frame", [tmp_path / "turned.jpg"])


def test_files_are_found_by_their_stems(tmp_path):
    for name in ("00000.jpg", "00005.PNG", "00010.JPEG", "00015.txt", ".00020.jpg", "1.5.webp", "extra.jpg"):
        (tmp_path / name).touch()
    found = find_files(tmp_path, ["00000", "00005", "00010", "00015", "00020", "1.5", "none"])
    assert found == {"00000": "00000.jpg", "00005": "00005.PNG", "00010": "00010.JPEG", "1.5": "1.5.webp"}
    assert find_files(tmp_path / "absent", ["00000"]) == {}
    (tmp_path / "extra.png").touch()  # of nobody's frame
    assert find_files(tmp_path, ["00000"])
    (tmp_path / "00000.Png").touch()
    with pytest.raises(ValueError, match=r"holds 00000\.Png and 00000\.jpg; leave one file for each frame"):
        find_files(tmp_path, ["00000"])
