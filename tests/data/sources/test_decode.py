"""Every odd image arrives as upright 8-bit RGB; whatever cannot be read gets a reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.data.sources.decode import (
    BadImageError,
    checked_size,
    is_image_name,
    open_rgb,
    stored_size,
    to_tensor,
)
from tests.data.pictures import Pixels, encode, noise

GREY, RGB, GREY_ALPHA, RGBA = (noise(channels=channels, seed=channels) for channels in (1, 3, 2, 4))


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    """Lay pixels over white, in float64."""
    share = alpha.astype(np.float64) / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def palette_file(transparency: bytes | int | None) -> tuple[bytes, Pixels, Pixels]:
    """Return a palette PNG, its colours, and the alpha of each pixel."""
    index = noise(channels=1)[..., 0] % 8
    colours = noise(8, 1)[:, 0]
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    alpha = np.full(8, 255, dtype=np.uint8)
    if isinstance(transparency, bytes):
        alpha[: len(transparency)] = list(transparency)
    elif transparency is not None:
        alpha[transparency] = 0
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    return encode(image, **options), colours[index], alpha[index][..., None]


def grey16(kind: str) -> tuple[bytes, Pixels]:
    values = np.random.default_rng(0).integers(0, 1 << 16, (11, 13)).astype(np.uint16)
    return encode(Image.fromarray(values), kind), (values >> 8).astype(np.uint8)[..., None]


def cases() -> dict[str, tuple[bytes, Pixels]]:
    """Lossless files and the pixels that they have to give, [H, W, 3] or [H, W, 1]."""
    plain = Image.fromarray(RGB)
    bits = Image.fromarray((GREY[..., 0] > 127) * np.uint8(255)).convert("1")
    palette, palette_colours, _ = palette_file(None)
    cut, cut_colours, cut_alpha = palette_file(3)
    soft, soft_colours, soft_alpha = palette_file(bytes([0, 17, 128, 200]))
    animation = [Image.fromarray(GREY[..., 0]), Image.fromarray(255 - GREY[..., 0])]
    keyed = Image.fromarray(np.where(GREY[..., 0] < 128, 7, 200).astype(np.uint8))
    return {
        "png": (encode(plain), RGB),
        "bmp": (encode(plain, "BMP"), RGB),
        "tiff": (encode(plain, "TIFF"), RGB),
        "ppm": (encode(plain, "PPM"), RGB),
        "webp": (encode(plain, "WEBP", lossless=True), RGB),
        "gif, first of two": (
            encode(animation[0], "GIF", save_all=True, append_images=animation[1:]),
            GREY,
        ),
        "grey": (encode(Image.fromarray(GREY[..., 0])), GREY),
        "1 bit": (encode(bits), (GREY > 127) * np.uint8(255)),
        "palette": (palette, palette_colours),
        "palette, one colour transparent": (cut, over_white(cut_colours, cut_alpha)),
        "palette, alpha": (soft, over_white(soft_colours, soft_alpha)),
        "rgba": (encode(Image.fromarray(RGBA)), over_white(RGBA[..., :3], RGBA[..., 3:])),
        "rgba webp": (
            encode(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
            over_white(RGBA[..., :3], RGBA[..., 3:]),
        ),
        "grey, alpha": (
            encode(Image.fromarray(GREY_ALPHA, "LA")),
            over_white(GREY_ALPHA[..., :1], GREY_ALPHA[..., 1:]),
        ),
        "grey, one value transparent": (
            encode(keyed, transparency=7),
            np.where(GREY < 128, 255, 200).astype(np.uint8),
        ),
        "16 bit png": grey16("PNG"),
        "16 bit tiff": grey16("TIFF"),
        "16 bit ppm": grey16("PPM"),
    }


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_lossless_files(name: str) -> None:
    data, expected = CASES[name]
    pixels = to_tensor(open_rgb(data))
    wanted = torch.from_numpy(np.broadcast_to(expected, (11, 13, 3)).copy()).permute(2, 0, 1)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 11, 13) and pixels.is_contiguous()
    # laying over white rounds once in 8 bit
    difference = int((pixels.int() - wanted.int()).abs().max())
    assert difference <= (1 if "alpha" in name or "rgba" in name else 0), difference
    assert checked_size(data) == stored_size(data) == (11, 13)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs(mode: str) -> None:
    """Smooth colours come back within what the format loses."""
    ramp = np.linspace(20, 230, 48)
    smooth = np.stack([np.add.outer(ramp, ramp[::-1]) / 2, np.add.outer(ramp, ramp) / 2], -1)
    red_green = smooth.astype(np.uint8)
    colours = np.concatenate([red_green, np.full((48, 48, 1), 90, np.uint8)], -1)
    image = Image.fromarray(colours).convert(mode)
    data = encode(image, "JPEG", quality=95)
    wanted = np.asarray(image.convert("L")) if mode == "L" else colours
    pixels = to_tensor(open_rgb(data)).permute(1, 2, 0).int()
    reference = torch.from_numpy(np.array(wanted)).int().reshape(48, 48, -1)
    assert int((pixels - reference).abs().max()) <= 6
    assert checked_size(data) == (48, 48)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (1, 300), (40, 5)])
def test_jpegs_of_few_pixels_are_no_bad_files(height: int, width: int) -> None:
    data = encode(Image.fromarray(noise(height, width)), "JPEG")
    assert checked_size(data) == stored_size(data) == (height, width)
    assert to_tensor(open_rgb(data)).shape == (3, height, width)


TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.transpose(1, 0, 2), 2),
    8: lambda stored: np.rot90(stored),
}
"""What a viewer does with stored pixels, by the orientation of EXIF."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [*TURNED, 0, 9])
def test_orientation(orientation: int, kind: str) -> None:
    blocks = noise(2, 3, seed=5) // 2 + 64
    stored = blocks.repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else lossless
    data = encode(Image.fromarray(stored), kind, exif=exif, **options)
    expected = TURNED.get(orientation, TURNED[1])(stored)
    pixels = to_tensor(open_rgb(data)).permute(1, 2, 0).numpy()
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (9 if kind == "JPEG" else 0)
    assert checked_size(data) == expected.shape[:2]


def test_a_damaged_note_of_orientation_is_no_reason_to_drop_an_image() -> None:
    data = encode(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0" + b"\xff" * 20)
    assert checked_size(data) == (11, 13)
    assert to_tensor(open_rgb(data)).shape == (3, 11, 13)


def bomb(side: int) -> bytes:
    """Return a PNG file that says to be very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


LARGE_JPEG = encode(Image.fromarray(noise(64, 64)), "JPEG")
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all, but a note about one\n" * 9, "not an image"),
    "html": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "cut jpeg": (LARGE_JPEG[: len(LARGE_JPEG) // 2], "truncated"),
    "header of a jpeg": (LARGE_JPEG[:300], "damaged|not an image"),
    "cut png": (CASES["png"][0][:200], "damaged"),
    "cut bmp": (CASES["bmp"][0][:200], "truncated"),
    "cut webp": (CASES["webp"][0][:200], "damaged|not an image"),
    "bomb": (bomb(60_000), "too many pixels"),
    "float": (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    "32 bit": (encode(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), "16 bit"),
    "postscript": (encode(Image.fromarray(RGB), "EPS"), "not an image"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("read", [open_rgb, checked_size])
def test_bad_files(name: str, read: Callable[[bytes], object]) -> None:
    data, reason = BAD[name]
    with pytest.raises(BadImageError, match=reason) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_end_in_pixels_or_a_reason() -> None:
    """Nothing but `BadImageError` comes out, whatever byte is changed, and both readers agree."""
    rng = np.random.default_rng(0)
    files = [data for data, _ in CASES.values()] + [LARGE_JPEG]
    outcomes = {"read": 0, "bad": 0}
    for _ in range(15):
        for file in files:
            data = bytearray(file)
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(0, 256)
            try:
                height, width = to_tensor(open_rgb(bytes(data))).shape[1:]
            except BadImageError:
                outcomes["bad"] += 1
                with pytest.raises(BadImageError):
                    checked_size(bytes(data))
            else:
                outcomes["read"] += 1
                assert checked_size(bytes(data)) == (height, width)
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.parametrize(
    ("name", "is_image"),
    [
        ("a.jpg", True),
        ("A.JPEG", True),
        ("b/c.PNG", True),
        ("x.tiff", True),
        ("x.webp", True),
        ("notes.txt", False),
        ("labels.csv", False),
        ("jpg", False),
    ],
)
def test_names(name: str, is_image: bool) -> None:
    assert is_image_name(name) is is_image
