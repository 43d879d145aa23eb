"""STL-10 as it is published, but small."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tests.data.pictures import Pixels


def images(count: int, side: int, seed: int) -> Pixels:
    """Return images of noise, uint8 [count, 3, side, side]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Pixels]:
    """Write three labelled, four unlabelled and two test images, columns first as published."""
    folder = root / "stl10_binary"
    folder.mkdir()
    pixels = {"train": images(3, 96, 0), "unlabeled": images(4, 96, 1), "test": images(2, 96, 2)}
    labels = {"train_y.bin": bytes([1, 10, 4]), "test_y.bin": bytes([2, 9])}
    stored = {f"{name}_X.bin": rows.swapaxes(2, 3).tobytes() for name, rows in pixels.items()}
    sums = {}
    for name, data in {**stored, **labels}.items():
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    parts = {"train_list": ("train_X", "train_y", "unlabeled_X"), "test_list": ("test_X", "test_y")}
    for part, names in parts.items():
        entries = [[f"{name}.bin", sums[f"{name}.bin"]] for name in names]
        monkeypatch.setattr(datasets.STL10, part, entries)
    return pixels
