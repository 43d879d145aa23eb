"""Digits: the embedded ones against scikit-learn's, MNIST's files, shifts, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from ssgear.config.schema import DataConfig
from ssgear.data.sources.loading import decode_all
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError, DataError, SsgearError


def pixels_of(source: Source) -> NDArray[np.uint8]:
    return decode_all(source, DataConfig())[0].numpy()


def test_the_embedded_digits_are_sklearns() -> None:
    config = DataConfig(source="digits")
    train, test = open_source(config, "train"), open_source(config, "test")
    original = load_digits()
    is_test = np.arange(1797) % 5 == 4
    for source, rows in ((train, ~is_test), (test, is_test)):
        assert (
            source.labels is not None and source.labels.tolist() == original.target[rows].tolist()
        )
        pixels = pixels_of(source)
        assert pixels.shape == (rows.sum(), 3, 32, 32)
        assert (pixels[:, 0] == pixels[:, 2]).all()
        assert not pixels[:, :, :8].any() and not pixels[:, :, :, 24:].any()
        # the means of 2 x 2 pixels are near the original ones: bilinear enlargement
        small = pixels[:, 0, 8:24, 8:24].reshape(-1, 8, 2, 8, 2).mean((2, 4)) * 16 / 255
        assert np.abs(small - original.images[rows]).mean() < 1.5
        near = [np.abs(small[i] - original.images[rows]).sum((1, 2)).argmin() for i in range(30)]
        assert near == list(range(30))
    assert train.classes == tuple("0123456789")
    unit = pixels_of(train) / 255
    assert train.mean[0] == pytest.approx(unit.mean(), abs=5e-4)
    assert train.std[0] == pytest.approx(unit.std(), abs=5e-4)


@pytest.fixture
def mnist(tmp_path: Path) -> tuple[Path, dict[str, NDArray[np.uint8]]]:
    """Five training and three test digits; the test images are packed."""
    rng = np.random.default_rng(0)
    made = {
        name: rng.integers(0, 256, (n, 28, 28), np.uint8) for name, n in (("train", 5), ("t10k", 3))
    }
    for name, pixels in made.items():
        images = struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()
        if name == "t10k":
            (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        else:
            (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">2I", 0x801, len(pixels)) + bytes([4, 9, 0, 1, 2][: len(pixels)])
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path, made


def test_mnist(mnist: tuple[Path, dict[str, NDArray[np.uint8]]]) -> None:
    folder, made = mnist
    config = DataConfig(source="mnist", path=folder)
    train, test = open_source(config, "train"), open_source(config, "test")
    assert train.labels is not None and train.labels.tolist() == [4, 9, 0, 1, 2]
    assert np.array_equal(pixels_of(train)[:, 1, 2:30, 2:30], made["train"])
    assert np.array_equal(pixels_of(test)[:, 0, 2:30, 2:30], made["t10k"])
    assert pixels_of(test)[:, :, 30:].sum() == 0


def test_what_is_refused(mnist: tuple[Path, dict[str, NDArray[np.uint8]]]) -> None:
    folder, _ = mnist
    cases: list[tuple[DataConfig, type[SsgearError], str]] = [
        (DataConfig(source="digits", path=folder), ConfigError, "--data.path: the embedded digits"),
        (DataConfig(source="mnist"), ConfigError, "--data.path: --data.source mnist needs"),
        (DataConfig(source="mnist", path=folder / "no"), DataError, "is not there; MNIST has four"),
    ]
    for config, kind, said in cases:
        with pytest.raises(kind, match=said):
            open_source(config, "train")
    config = DataConfig(source="mnist", path=folder)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 0x801, 2) + b"ab")
    with pytest.raises(DataError, match="2 labels; MNIST has one label for each"):
        open_source(config, "train")
    for data in (b"", labels.read_bytes()[:-1], struct.pack(">2I", 0x803, 2) + b"ab"):
        labels.write_bytes(data)
        with pytest.raises(DataError, match="is no idx file of labels, or is cut short"):
            open_source(config, "train")
