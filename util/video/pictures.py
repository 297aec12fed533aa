"""Reading pictures and masks from disk, of data sets and of users: upright, and of any mode and depth.

A picture is turned by its EXIF orientation, as viewers do. Errors name the file and the mend. Functions that return
tensors import torch themselves: processes that score masks need no torch, and start ten times as fast without it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from util.files.images import MOST_BYTES, check_pixels, open_image
from util.files.reading import unfit
from util.masks.results import LABEL_PALETTE

if TYPE_CHECKING:
    from torch import Tensor

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png",)

# For each EXIF orientation: quarter turns counter-clockwise, and whether left and right are exchanged after them.
# Source: tag 0x0112 in Exif 2.32 (CIPA DC-008), which defines where the first row and column of a picture are shown.
_TURNS = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True)}
_TURNS[8] = (1, False)
# Markers of a JPEG's frame header, one for each coding; C4, C8 and CC mean other things. Source: ITU-T T.81, table B.1.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length. None belongs before the frame header; skipping by what follows could miss another header.
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
_APP1 = 0xE1  # EXIF or XMP
# Parts of a PNG that can hold an orientation; they may come after the pixels.
_PNG_TAGS = (b"eXIf", b"Raw profile type", b"com.adobe.xmp")
_NO_WHITE = ", and nothing says which of them is white; convert it to 8 or 16 bits"
# formats whose compression changes pixels
_LOSSY = ("JPEG", "MPO", "WEBP")
# Colours of the objects 1 to 8 in the masks of YouTube-VOS: the palette of its train/Annotations/003234408d.
_YOUTUBE_VOS = bytes.fromhex("000000 ec5f67 f99157 fac863 99c794 62b3b2 6699cc c594c5 ab7967")
# Greys that are also colours of DAVIS's palette. A picture of these alone is ambiguous.
_AMBIGUOUS = np.array([64, 128, 192])


class Wording(NamedTuple):
    """The words of messages about a file that is absent or damaged, and how to mend it."""

    absent: str
    damaged: str
    mend: str


_RESTORE = "restore this file from the data set's archive (docs/data.md)"
FRAME = Wording("the frame does not exist", "the frame is damaged or not an image", _RESTORE)
MASK = Wording("the mask does not exist", "the mask is damaged or not an image", _RESTORE)


class _Unclear(ValueError):
    """The file is sound, but its content is ambiguous; the message has the mend."""


@contextmanager
def _readable(path: Path, wording: Wording, most: int = MOST_BYTES) -> Iterator[None]:
    """Around the opening of a file: FileNotFoundError where it is missing, OSError where it cannot be opened,
    ValueError where it is no file, or has more than ``most`` bytes."""
    try:
        if why := unfit(path, most):
            raise ValueError(f"{path}: {why}; {wording.mend}")
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: {wording.absent}; {wording.mend}") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror}); see that this file may be read") from error


def _content(path: Path, wording: Wording, most: int = MOST_BYTES) -> np.ndarray:
    """The bytes of a file."""
    with _readable(path, wording, most):
        return np.fromfile(path, np.uint8)


@contextmanager
def _named_errors(path: Path, wording: Wording) -> Iterator[None]:
    """Turns the errors of decoders on damaged bytes into a ValueError that names the file, in one line."""
    try:
        yield
    except _Unclear as error:
        raise ValueError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:
        reason = f" ({' '.join(str(error).split())})"
        raise ValueError(f"{path}: {wording.damaged}{reason}; {wording.mend}") from error


class _JpegHeader(NamedTuple):
    """What a JPEG says before its pixels.

    Attributes:
        size: height and width as stored.
        plain: all decoders show it alike (8 bits, grey or three colours).
        tagged: EXIF or XMP comes before the frame header.
    """

    size: tuple[int, int]
    plain: bool
    tagged: bool


def _jpeg_header(content: np.ndarray) -> _JpegHeader | None:
    """None for what is no JPEG, or one that decoders may take apart in different ways."""
    data, at, tagged = memoryview(content), 2, False
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    while at + 9 < len(data) and data[at] == 0xFF and data[at + 1] not in _BARE:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            size = (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8])
            return _JpegHeader(size, data[at + 4] == 8 and data[at + 9] in (1, 3), tagged)
        tagged |= marker == _APP1
        at += 1 if marker == 0xFF else 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _orientation(image: Image.Image, content: bytes | None = None) -> int:
    """EXIF orientation, 1 to 8; 1 for damaged EXIF data. ``content``, the file's bytes, is needed for PNGs only."""
    if image.format == "PNG" and not any(tag in (content or b"") for tag in _PNG_TAGS):
        return 1  # Pillow would decode the picture for this
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def orientation(path: Path, wording: Wording = FRAME) -> int:
    """EXIF orientation of a picture, 1 to 8; 1 where it has none. Errors as in :func:`read_frame`."""
    content = _content(path, wording)
    with _named_errors(path, wording), open_image(BytesIO(content)) as image:
        return _orientation(image, content.tobytes())


def _upright(picture: np.ndarray | Tensor, orientation: int) -> np.ndarray | Tensor:
    """A picture ``[H, W, …]`` turned as its orientation says."""
    if orientation == 1:
        return picture
    quarters, mirrored = _TURNS[orientation]
    if isinstance(picture, np.ndarray):
        picture = np.rot90(picture, quarters)
        return np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)
    picture = picture.rot90(quarters)
    return picture.flip(1) if mirrored else picture


def _load(image: Image.Image, content: np.ndarray) -> tuple[Image.Image, int]:
    """The decoded image, and the orientation by which it still has to be turned; Pillow turns TIFFs itself."""
    turn = 1 if image.format == "TIFF" else _orientation(image, content.tobytes())
    image.load()
    return image, turn


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 ``[H, W, 3]``: the high bytes of 16-bit values; transparency is ignored."""
    if image.mode == "F":
        raise _Unclear(f"its pixels are floating-point numbers{_NO_WHITE}")
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise _Unclear(f"its pixels are numbers of more than 16 bits{_NO_WHITE}")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("P", "PA"):  # else Pillow warns of transparent entries of the palette
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_frame(path: Path, wording: Wording = FRAME) -> Tensor:
    """A picture as uint8 RGB ``[3, H, W]``, upright, channels-last in memory.

    Raises:
        FileNotFoundError: there is none.
        OSError: the machine does not let it be read.
        ValueError: it is damaged, or of a format that is not read, or of more than
            :data:`util.files.images.MOST_PIXELS`, or no file but a pipe, or its values are of a type whose white is
            unknown (floating-point, above 16 bits).
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    content = _content(path, wording)
    jpeg = _jpeg_header(content)
    with _named_errors(path, wording):
        if jpeg and jpeg.plain:
            check_pixels(*jpeg.size)
            turn = 1
            if jpeg.tagged:
                with open_image(BytesIO(content)) as image:
                    turn = _orientation(image)
            frame = decode_image(torch.from_numpy(content), ImageReadMode.RGB)
            return frame if turn == 1 else _upright(frame.permute(1, 2, 0), turn).permute(2, 0, 1)
        with open_image(BytesIO(content)) as image:
            image, turn = _load(image, content)
            return torch.from_numpy(_upright(_rgb(image), turn)).permute(2, 0, 1)


def image_size(path: Path, wording: Wording = FRAME) -> tuple[int, int]:
    """Height and width in pixels, upright, from the file's header alone. Errors as in :func:`read_frame`."""
    with _readable(path, wording):
        file = path.open("rb")
    with file, _named_errors(path, wording), open_image(file) as image:
        if image.format == "TIFF":  # some releases of Pillow give the upright size, others the stored one
            width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        else:
            width, height = image.size
        turn = _orientation(image, path.read_bytes() if image.format == "PNG" else None)
        return (width, height) if turn >= 5 else (height, width)


def _colour_ids(colours: np.ndarray) -> np.ndarray | None:
    """Object ids ``[H, W]`` of a mask in colours, ``[H, W, 3]``; None where the colours have no ids.

    Grey values are the ids themselves. Other colours must all be in DAVIS's palette, or all in YouTube-VOS's.
    """
    if (colours == colours[..., :1]).all():
        grey = colours[..., 0]
        return None if grey.any() and np.isin(grey[grey > 0], _AMBIGUOUS).all() else grey
    for palette in (LABEL_PALETTE, _YOUTUBE_VOS):
        # the same colour may stand for several ids; the last one counts
        ids = {_code(palette[i : i + 3]): i // 3 for i in range(0, len(palette), 3)}
        known = np.array(sorted(ids))
        number_of = np.array([ids[code] for code in known.tolist()], np.uint8)
        rows = []
        for row in colours:  # one by one: codes of a whole picture take eight times its memory
            codes = row.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
            places = np.searchsorted(known, codes).clip(max=len(known) - 1)
            if (known[places] != codes).any():
                break
            rows.append(number_of[places])
        else:
            return np.stack(rows)
    return None


def _code(colour: bytes) -> int:
    return int.from_bytes(colour, "big")


def _ids(image: Image.Image, content: np.ndarray) -> np.ndarray:
    """Object ids ``[H, W]``, any integer type."""
    depth = int(content[24]) if image.format == "PNG" else 8  # byte 24 of a PNG, in its header, is the bit depth
    ids, why = None, "whose colours stand for no ids"
    if image.format in _LOSSY:
        why = "whose compression changes ids"
    elif image.mode == "L" and depth < 8:  # Pillow has spread these values over 0 to 255
        ids = np.asarray(image) // (255 // (2**depth - 1))
    elif image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        ids = np.asarray(image)
    elif depth == 8 and image.mode in ("LA", "PA"):
        ids = np.asarray(image)[..., 0]
    elif depth == 8 and image.mode in ("RGB", "RGBA"):  # Pillow keeps the high bytes of 16-bit values
        ids = _colour_ids(np.asarray(image)[..., :3])
    if ids is None:
        raise _Unclear(
            "a mask is a palette PNG whose pixel values are object ids, or a grey one, not a "
            f"{image.format} of mode {image.mode} {why}; save the ids themselves as a PNG (docs/data.md)"
        )
    if int(ids.max()) > 255 or int(ids.min()) < 0:
        raise _Unclear(f"holds the value {ids.max()}, but ids are 0 to 255; save the ids themselves (docs/data.md)")
    return ids


def read_labels(path: Path, wording: Wording = MASK, most: int = MOST_BYTES) -> np.ndarray:
    """A mask as uint8 object ids ``[H, W]``, upright: palette indices, grey values, or the ids of palette colours.

    Args:
        most: bytes that the file may have.

    Raises:
        FileNotFoundError, OSError: as :func:`read_frame`.
        ValueError: it cannot be decoded as :func:`read_frame` has it, its ids are above 255, or its mode or colours
            have no ids.
    """
    content = _content(path, wording, most)
    with _named_errors(path, wording), open_image(BytesIO(content)) as opened:
        image, turn = _load(opened, content)
        return np.ascontiguousarray(_upright(_ids(image, content).astype(np.uint8), turn))


def turned(path: Path | None) -> str:
    """An addition to the message about a wrong size, where an EXIF orientation exchanges height and width."""
    try:
        value = orientation(path) if path else 1
    except (ValueError, OSError):
        return ""
    return f"{path.name} has EXIF orientation {value} and is read upright, as viewers show it" if value >= 5 else ""


def check_size(
    path: Path | str, size: Sequence[int], expected: Sequence[int], of: str, pictures: Collection[Path] = ()
) -> None:
    """Raises ValueError, naming ``path``, unless two sizes (height, width) agree.

    If one of the ``pictures`` is turned by its EXIF orientation, the message says so.
    """
    if tuple(size) == tuple(expected):
        return
    mend = "restore whichever is wrong from the data set's archive (docs/data.md)"
    if tuple(size) == tuple(expected)[::-1] and (why := next(filter(None, map(turned, pictures)), None)):
        mend = (
            f"{why}; turn the masks like the frames or, if the masks fit the frames as they are stored, remove the tag "
            "from the frames: exiftool -Orientation= FOLDER (docs/data.md)"
        )
    raise ValueError(f"{path}: is {size[1]}x{size[0]} pixels, but {of} is {expected[1]}x{expected[0]}; {mend}")


def read_frames(paths: Sequence[Path]) -> Tensor:
    """Frames of one video as uint8 RGB ``[T, 3, H, W]``; a file named twice in a row is decoded once.

    The memory is channels-last, as decoders deliver it: resizing is then 2.5 times as fast as with channels first.
    Raises as :func:`read_frame`, and ValueError for frames of different sizes.
    """
    import torch

    first = read_frame(paths[0])
    frames = torch.empty((len(paths), *first.shape[1:], 3), dtype=torch.uint8)
    frames[0] = first.permute(1, 2, 0)
    for t in range(1, len(paths)):
        if paths[t] == paths[t - 1]:
            frames[t] = frames[t - 1]
            continue
        frame = read_frame(paths[t])
        of = f"the frame {paths[0].name} of the same video"
        check_size(paths[t], frame.shape[1:], first.shape[1:], of, (paths[t], paths[0]))
        frames[t] = frame.permute(1, 2, 0)
    return frames.permute(0, 3, 1, 2)


def read_label_maps(
    paths: Sequence[Path | None], size: tuple[int, int], frames: Sequence[Path | None] | None = None
) -> Tensor:
    """Masks of one video as uint8 object ids ``[T, 1, H, W]``; a file named twice in a row is decoded once.

    Args:
        paths: of the masks; a mask without a file (None) has no object.
        size: height and width of the frames.
        frames: files of the frames, for the message about a wrong size.

    Raises as :func:`read_labels`, and ValueError for a mask of another size than the frames.
    """
    import torch

    labels = torch.empty((len(paths), 1, *size), dtype=torch.uint8)
    for t, path in enumerate(paths):
        if t and path == paths[t - 1]:
            labels[t] = labels[t - 1]
        elif path is None:
            labels[t] = 0
        else:
            ids = read_labels(path)
            check_size(path, ids.shape, size, "its frame", [frames[t]] if frames else ())
            labels[t, 0] = torch.from_numpy(ids)
    return labels


def group_files(folder: Path, stems: Collection[str], suffixes: Sequence[str]) -> dict[str, list[str]]:
    """For each of the ``stems``, its files in a folder, which is listed once; ``suffixes`` in upper or lower case."""
    wanted, found = set(stems), {}
    for name in list_files(folder):
        stem, suffix = os.path.splitext(name)
        if stem in wanted and suffix.lower() in suffixes:
            found.setdefault(stem, []).append(name)
    return found


def find_files(folder: Path, stems: Collection[str], suffixes: Sequence[str] = PICTURE_SUFFIXES) -> dict[str, str]:
    """For each of the ``stems``, its file in a folder (:func:`group_files`). ValueError where a stem has two."""
    grouped = group_files(folder, stems, suffixes)
    for files in grouped.values():
        if len(files) > 1:
            raise ValueError(f"{folder}: holds {' and '.join(files)}; leave one file for each frame (docs/data.md)")
    return {stem: files[0] for stem, files in grouped.items()}


def list_files(folder: Path) -> list[str]:
    """Names in a folder, sorted, without hidden files; an empty list where the folder is missing."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
