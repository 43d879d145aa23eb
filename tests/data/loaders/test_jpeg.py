"""Which files DALI may decode as they are: where a header says so, both decoders give one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.data.loaders.dali_pipeline import CropPipeline, Output, as_ppm, feed
from ssgear.data.loaders.jpeg import plain_size
from ssgear.data.sources.decode import open_rgb
from tests.data.pictures import encode, noise

IMAGE = Image.fromarray(noise(21, 34))


def oriented(value: int, **more: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(IMAGE, "JPEG", exif=exif, **more)


def by_dali(data: bytes, height: int, width: int) -> torch.Tensor:
    """Return the whole image as DALI decodes it, made a square."""
    outputs = [Output(size=40, interpolation="bilinear", antialias=True)]
    pipeline = CropPipeline(outputs, 1, 1, torch.device("cpu"))
    pipeline.feed(feed([[data]], [torch.tensor([[0.0, 0.0, height, width]])], outputs))
    return pipeline.take()[0]


def late_notes(data: bytes) -> bytes:
    """Move a camera's notes from where they stand to just before the scan."""
    start = data.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    rest = data[:start] + data[end:]
    scan = rest.index(b"\xff\xda")
    return rest[:scan] + data[start:end] + rest[scan:]


PLAIN = {
    "baseline": encode(IMAGE, "JPEG"),
    "progressive": encode(IMAGE, "JPEG", progressive=True),
    "all colours whole": encode(IMAGE, "JPEG", subsampling=0),
    "grey": encode(IMAGE.convert("L"), "JPEG"),
    "restarts": encode(IMAGE, "JPEG", restart_marker_rows=1),
    **{f"orientation {value}": oriented(value) for value in range(1, 9)},
}
NOT_PLAIN = {
    "empty": b"",
    "PNG": encode(IMAGE, "PNG"),
    "CMYK": encode(IMAGE.convert("CMYK"), "JPEG"),
    "RGB, no transform": encode(IMAGE, "JPEG", keep_rgb=True),
    "no end mark": encode(IMAGE, "JPEG")[:-2],
    "bytes after the end": encode(IMAGE, "JPEG") + b"more",
    "header alone": encode(IMAGE, "JPEG")[:100] + b"\xff\xd9",
    "unknown orientation": oriented(9),
    "notes after the frame": late_notes(oriented(6)),
    "orientation of another type": oriented(6).replace(
        b"\x01\x12\x00\x03\x00", b"\x01\x12\x00\x04\x00"
    ),
    "notes cut short": oriented(6).replace(b"\x00\x01\x01\x12\x00", b"\x00\x09\x01\x12\x00"),
    "orientation in XMP": encode(IMAGE, "JPEG", xmp=b'<x xmlns:tiff="t" tiff:Orientation="6"/>'),
    "arithmetic coding": encode(IMAGE, "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1),
}


@pytest.mark.parametrize("what", PLAIN)
def test_plain_files_are_read_alike(what: str) -> None:
    data = PLAIN[what]
    image = open_rgb(data)
    assert plain_size(data) == (image.height, image.width)
    assert sorted(image.size) == [21, 34]
    ours = by_dali(as_ppm(image), image.height, image.width)
    assert torch.equal(by_dali(data, image.height, image.width), ours)


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_others_are_not(what: str) -> None:
    assert plain_size(NOT_PLAIN[what]) is None


def test_headers_of_noise_never_fail() -> None:
    """A file is bytes that anyone may have written."""
    random = np.random.default_rng(0)
    good = np.frombuffer(oriented(6), dtype=np.uint8)
    for _ in range(3000):
        damaged = good.copy()
        places = random.integers(2, 300, size=3)
        damaged[places] = random.integers(0, 256, size=3)
        damaged = damaged[: random.integers(2, len(good))] if random.random() < 0.3 else damaged
        size = plain_size(damaged.tobytes() + b"\xff\xd9")
        assert size is None or min(size) > 0
