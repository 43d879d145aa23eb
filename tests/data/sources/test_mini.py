"""The embedded images: how many, of what, from where."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data.mini.build import build, first_of_each_class
from ssgear.data.sources.decode import checked_size
from ssgear.data.sources.loading import decode_all
from ssgear.data.sources.open import MINI, open_probe_source, open_source
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError
from tests.data.pictures import pack, write

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@pytest.fixture(scope="module")
def train() -> Source:
    return open_source(DataConfig(), "train")


@pytest.fixture(scope="module")
def test() -> Source:
    return open_source(DataConfig(), "test")


def test_the_default_is_the_embedded_set(train: Source, test: Source) -> None:
    for source, count in ((train, 4000), (test, 1000)):
        assert source.name == "mini" and len(source) == count and source.classes == CLASSES
        assert source.labels is not None and source.labels.dtype == torch.int64
        assert source.labels.bincount().tolist() == [count // 10] * 10
        assert source.native_size == 32 and source.bad == () and source.notes == ()
    named = open_source(DataConfig(source="mini"), "train")
    assert [named.where(i) for i in (0, 3999)] == [train.where(i) for i in (0, 3999)]


def test_labels_are_those_of_the_names(train: Source) -> None:
    assert train.labels is not None
    for index in range(0, 4000, 41):
        assert f"/{CLASSES[int(train.labels[index])]}/" in train.where(index)


def test_the_archive_is_small_and_no_image_is_there_twice(train: Source, test: Source) -> None:
    assert MINI.stat().st_size < 6e6
    files = [source.encoded(i) for source in (train, test) for i in range(len(source))]
    assert len({hashlib.sha256(file).digest() for file in files}) == 5000


def test_every_image_is_32_pixels_wide_and_high(train: Source, test: Source) -> None:
    for source in (train, test):
        assert {checked_size(source.encoded(i)) for i in range(len(source))} == {(32, 32)}


def test_all_decode_to_photographs(train: Source) -> None:
    images, good = decode_all(train, DataConfig(), progress=False)
    assert images.shape == (4000, 3, 32, 32) and images.dtype == torch.uint8
    assert len(good) == 4000
    assert torch.equal(images[1234], train.decode(1234))
    colours = images.float() / 255
    assert torch.allclose(colours.mean((0, 2, 3)), torch.tensor(train.mean), atol=0.01)
    assert torch.allclose(colours.std((0, 2, 3)), torch.tensor(train.std), atol=0.01)


def test_the_probe_learns_from_the_training_images(train: Source) -> None:
    probe = open_probe_source(DataConfig())
    assert [probe.where(i) for i in range(9)] == [train.where(i) for i in range(9)]


def test_it_needs_no_path_and_no_labels() -> None:
    with pytest.raises(ConfigError, match=r"--data\.path"):
        open_source(DataConfig(source="mini", path=Path("photos")), "train")
    with pytest.raises(ConfigError, match=r"--data\.labels"):
        open_source(DataConfig(labels=Path("labels.csv")), "train")


def test_building_takes_the_first_of_each_class_and_gives_the_same_bytes(tmp_path: Path) -> None:
    tars = []
    for split, count in (("train", 402), ("test", 101)):
        names = [f"{split}/{name}/{i:04}.jpg" for name in ("cat", "dog") for i in range(count)]
        write(tmp_path / "all", names, side=2)
        tars.append(pack(tmp_path / "all" / split, tmp_path / f"{split}.tar", split))
    built = build(*tars)
    assert built == build(*tars)
    taken = [name for path, n in zip(tars, (400, 100), strict=True)
             for name, _ in first_of_each_class(path, n)]  # fmt: skip
    assert len(taken) == 1000
    assert {"train/cat/0000.jpg", "train/dog/0399.jpg", "test/dog/0099.jpg"} <= set(taken)
    assert not {"train/cat/0400.jpg", "test/cat/0100.jpg"} & set(taken)


@pytest.mark.data
def test_byte_for_byte_the_files_of_the_whole_set(real_images: Path) -> None:
    folder = real_images / "cifar10-jpeg"
    if not (folder / "train.tar").is_file():
        pytest.skip(f"{folder} has no train.tar")
    assert build(folder / "train.tar", folder / "test.tar") == MINI.read_bytes()
    with tarfile.open(folder / "test.tar") as archive:
        source = open_source(DataConfig(), "test")
        for index in range(0, 1000, 37):
            member = archive.extractfile(source.where(index).rpartition(":")[2])
            assert member is not None and member.read() == source.encoded(index)
