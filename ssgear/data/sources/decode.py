"""From the bytes of an image file to upright RGB pixels, with Pillow.

Whatever a file holds arrives as 8-bit RGB: transparency is laid over white, CMYK and palettes are
converted, 16-bit grey keeps its high byte (as Pillow does for 16-bit colour), the orientation that
a camera wrote is applied, of an animation the first frame counts. What cannot be read raises
`BadImageError` with the reason in words.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, suppress

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ssgear.errors import DataError, first_line, refusing

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Formats that are tried. Others stay closed: Pillow hands EPS to an external program."""
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
"""Names that end so count as images, in either case; what is inside decides how they are read."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(DataError):
    """A file that holds no readable image; the text is the reason, without the file's name."""


def is_image_name(name: str) -> bool:
    """Whether a file of that name counts as an image."""
    return name.lower().endswith(EXTENSIONS)


def open_rgb(data: bytes) -> Image.Image:
    """Decode a whole file to an upright RGB image."""
    with _reasons():
        image = _open(data)
        image.load()
        return _to_rgb(_upright(image))


def checked_size(data: bytes) -> tuple[int, int]:
    """Return the upright height and width of a file that decodes from its start to its end.

    JPEGs are decoded at an eighth of their size, which reads all of the file in less time.
    """
    with _reasons():
        image = _open(data)
        if image.format not in ("JPEG", "MPO"):
            width, height = open_rgb(data).size
            return height, width
        width, height = image.size
        image.draft(image.mode, (max(width // 8, 1), max(height // 8, 1)))
        image.load()
        return (width, height) if _orientation(image) >= 5 else (height, width)


def stored_size(data: bytes) -> tuple[int, int]:
    """Return height and width as the header has them; the beginning of a file may do."""
    with _reasons():
        width, height = _open(data).size
        return height, width


def to_tensor(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImageError("empty file")
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _reasons() -> AbstractContextManager[None]:
    """Say in words what a decoder found wrong."""

    def refusal(error: Exception) -> BadImageError | None:
        if isinstance(error, BadImageError):
            return None
        if isinstance(error, UnidentifiedImageError):
            return BadImageError("not an image that can be read")
        is_bomb = isinstance(error, Image.DecompressionBombError)
        what = "too many pixels" if is_bomb else "damaged"
        return BadImageError(f"{what}: {first_line(error)}")

    # damaged files make decoders raise almost anything, from struct.error to ZeroDivisionError
    return refusing(Exception, refusal)


def _orientation(image: Image.Image) -> int:
    """Return the orientation that a camera wrote; a damaged note of it counts as upright."""
    with suppress(Exception):
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        return orientation if orientation in _UPRIGHT else 1
    return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no agreed range; convert it to 8 bit")
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Return the high byte of 16-bit grey as 8-bit grey."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BadImageError("more than 16 bit a pixel; convert it to 8 or 16 bit")
    return Image.fromarray((values >> 8).astype(np.uint8))
