"""Published sets in small, as torchvision finds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision import datasets

from tests.data.pictures import Pixels
from tests.data.sources.cifar10_files import CIFAR10_NAMES, save
from tests.data.sources.stl10_files import images, write_stl10


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Pixels, Pixels]:
    """Five batches of four training images and three test images."""
    folder = tmp_path / "cifar-10-batches-py"
    train, test = images(20, 32, 0), images(3, 32, 1)
    batches = [
        save(
            folder / f"data_batch_{number + 1}",
            {"data": train[4 * number :][:4].reshape(4, -1), "labels": [0, 1, 2, number % 3]},
        )
        for number in range(5)
    ]
    tests = [save(folder / "test_batch", {"data": test.reshape(3, -1), "labels": [2, 1, 0]})]
    name, md5 = save(folder / "batches.meta", {"label_names": CIFAR10_NAMES})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", tests)
    meta = {"filename": name, "key": "label_names", "md5": md5}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path, train, test


@pytest.fixture
def stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Pixels]]:
    return tmp_path, write_stl10(tmp_path, monkeypatch)
