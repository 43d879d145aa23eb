"""Handwritten digits as images of 32 x 32 pixels: the embedded ones, and MNIST by path.

Both are grey, shown as three equal channels, white on black with room to be moved sideways. The
embedded ones (mini/DIGITS.md) are 8 x 8 pixels, enlarged to 16 x 16; MNIST's are 28 x 28.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssgear.config.schema import DataConfig
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Split
from ssgear.errors import ConfigError, DataError, refusing, unreadable

EMBEDDED = Path(__file__).parents[1] / "mini" / "digits.npz"
SIDE = 32
NAMES = tuple(str(digit) for digit in range(10))
TEST_EVERY = 5
"""Of the embedded digits every fifth is a test image."""
_MNIST = {"train": "train", "probe": "train", "test": "t10k"}
_MAGIC = {"images": 0x803, "labels": 0x801}


def read_digits(config: DataConfig, part: Split) -> Images:
    """Read the embedded digits; every fifth is a test image."""
    if config.path is not None:
        raise ConfigError(
            f"--data.path: the embedded digits need none; leave {config.path} away, or add "
            "--data.source mnist, or --data.source folder for class folders"
        )
    with np.load(EMBEDDED) as stored:
        pixels, labels = stored["images"], stored["labels"]
    is_test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    chosen = is_test if part == "test" else ~is_test
    grey = torch.from_numpy(pixels[chosen]).float()[:, None] * (255 / 16)
    large = F.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    split = "test" if part == "test" else "training"
    return _images(f"digits {split}", large.round().byte(), labels[chosen])


def read_mnist(config: DataConfig, part: Split) -> Images:
    """Read MNIST's four files, packed or not, from the folder that --data.path names."""
    if config.path is None:
        raise ConfigError("--data.path: --data.source mnist needs the folder of its four files")
    name = _MNIST[part]
    pixels, labels = (
        _read_idx(_find(config.path.expanduser(), f"{name}-{kind}-idx{axes}-ubyte"), kind)
        for kind, axes in (("images", 3), ("labels", 1))
    )
    if len(pixels) != len(labels) or pixels.shape[1] > SIDE or pixels.shape[2] > SIDE:
        raise DataError(
            f"--data.path: {config.path}: {pixels.shape[0]} images of {pixels.shape[1]} x "
            f"{pixels.shape[2]} pixels and {len(labels)} labels; MNIST has one label for each "
            "image of 28 x 28"
        )
    split = "test" if part == "test" else "training"
    return _images(f"mnist {split}", torch.from_numpy(pixels)[:, None], labels)


def _images(title: str, grey: Tensor, labels: NDArray[np.uint8]) -> Images:
    """Put digits uint8 [N, 1, h, w] into the middle of black squares."""
    top, left = ((SIDE - side) // 2 for side in grey.shape[2:])
    bottom, right = SIDE - grey.shape[2] - top, SIDE - grey.shape[3] - left
    padded = F.pad(grey, (left, right, top, bottom)).expand(-1, 3, -1, -1)
    return Images(
        reader=ArrayReader(title, padded.contiguous().numpy()),
        keys=NAMES,
        labels=torch.from_numpy(labels.astype(np.int64)),
        side=SIDE,
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"--data.path: {folder / name}(.gz) is not there; MNIST has four such files")


def _read_idx(path: Path, kind: str) -> NDArray[np.uint8]:
    """Read an idx file: a magic number, the length of each axis, and the bytes."""
    with refusing((OSError, EOFError, zlib.error), unreadable(path)):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    axes = 3 if kind == "images" else 1
    header = 4 + 4 * axes
    numbers = struct.unpack(f">{1 + axes}I", data[:header]) if len(data) >= header else (0,)
    length = int(np.prod(numbers[1:], dtype=np.int64))
    if numbers[0] != _MAGIC[kind] or len(data) != header + length:
        raise DataError(f"{path}: is no idx file of {kind}, or is cut short")
    return np.frombuffer(data, np.uint8, offset=header).reshape(numbers[1:]).copy()
