"""Opening pictures that other people's programs wrote: of the formats that are read here, and of a bounded size."""

from __future__ import annotations

import warnings
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# Pillow's names; a JPEG may turn out as MPO, the kind that phones write (jpeg_factory in PIL/JpegImagePlugin.py). No
# other format is tried: for an EPS Pillow would start Ghostscript (PIL/EpsImagePlugin.py).
PICTURE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
# Phones take pictures of 12032x9024; RGB of so many pixels takes 384 MiB.
MOST_PIXELS = 2**27
# of a file: uncompressed, so many pixels of three or four channels have this size
MOST_BYTES = 2**29

# Pillow warns above 2**26.4 pixels, and raises above twice as many. The bound here is another.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


_TOO_LARGE = f"it claims more than {MOST_PIXELS:,} pixels, the most that are read"


def check_pixels(height: int, width: int) -> None:
    """ValueError for a picture that claims more than :data:`MOST_PIXELS`; call it before anything is allocated."""
    if height * width > MOST_PIXELS:
        raise ValueError(_TOO_LARGE)


def open_image(file: BinaryIO) -> Image.Image:
    """An image of which only the header has been read.

    Raises:
        ValueError: its format is not read here, or it claims too many pixels.
        Exception: of any kind, on damaged bytes.
    """
    try:
        image = Image.open(file, formats=PICTURE_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not readable as {', '.join(PICTURE_FORMATS[:-1])} or {PICTURE_FORMATS[-1]}") from None
    except Image.DecompressionBombError:
        raise ValueError(_TOO_LARGE) from None
    try:
        check_pixels(image.height, image.width)
    except ValueError:
        image.close()
        raise
    return image
