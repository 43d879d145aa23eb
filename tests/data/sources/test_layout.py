"""Tiny ImageNet's own layout, and what of a folder is held out."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from ssgear.config.schema import DataConfig
from ssgear.data.sources.layout import folder_layout, hold_out
from ssgear.data.sources.listing import list_folder
from ssgear.data.sources.names import shared_folders
from ssgear.data.sources.open import open_source
from ssgear.errors import DataError
from tests.data.pictures import both, pack, write, write_classes
from tests.data.sources.tiny_imagenet import VAL, WNIDS, write_tiny


@pytest.mark.parametrize("inside", [".", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path: Path, inside: str) -> None:
    write_tiny(tmp_path / inside, VAL)
    write(tmp_path / inside, ["test/images/test_0.JPEG"])
    for source in ("auto", "tiny-imagenet"):
        train, test = both(DataConfig(source=source, path=tmp_path))
        assert train.name == test.name == "tiny-imagenet" and len(train) == 9
        assert train.classes == ("goldfish", "crane (n02012849)", "crane (n03126707)")
        assert train.labels is not None and train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert test.labels is not None and test.labels.tolist() == [2, 0, 0]
        assert test.classes == train.classes


def test_some_classes_of_tiny_imagenet(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, VAL)
    shutil.rmtree(root / "train" / "n03126707")
    train, test = both(DataConfig(path=root))
    assert len(train) == 6 and test.labels is not None and test.labels.tolist() == [0, 0]
    assert "1 validation image" in test.notes[0]


def test_tiny_imagenet_in_two_tars(tmp_path: Path) -> None:
    root = write_tiny(tmp_path / "whole", VAL)
    train_tar = pack(root / "train", tmp_path / "train.tar", "tiny-imagenet-200/train")
    shutil.rmtree(root / "train")
    test_tar = pack(root, tmp_path / "val.tar", "tiny-imagenet-200")
    train, test = both(DataConfig(path=train_tar, test_path=test_tar))
    assert len(train) == 9 and train.classes == tuple(WNIDS)
    assert test.labels is not None and test.labels.tolist() == [2, 0, 0]


def test_a_validation_image_without_its_line(tmp_path: Path) -> None:
    root = write_tiny(tmp_path, VAL)
    write(root, ["val/images/val_9.JPEG"])
    with pytest.raises(DataError, match=r"val_9\.JPEG"):
        open_source(DataConfig(path=root), "train")


def test_what_is_not_tiny_imagenet(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"--data\.source folder"):
        open_source(DataConfig(source="tiny-imagenet", path=tmp_path), "train")


def test_shared_folders() -> None:
    assert shared_folders("a/b/1", "a/b/2") == "a/b/"
    assert shared_folders("a/b/1", "a/b/2", keep=["b"]) == "a/"
    assert shared_folders("a-b/1", "ab/1") == ""
    assert shared_folders("a", "a") == ""


def held_out(root: Path) -> tuple[list[str], list[str]]:
    """Names of a folder's images that stay, and of those that are held out."""
    listing = list_folder(root)
    parts = hold_out(listing, folder_layout(listing).train, 0.2)
    kept, held = ([listing.images[row] for row in part.rows] for part in parts)
    assert sorted((*kept, *held)) == list(listing.images)
    return kept, held


def test_holding_out_does_not_see_what_a_tar_puts_before_the_names(tmp_path: Path) -> None:
    for folder in ("plain", "tarred/top"):
        write_classes(tmp_path / folder, {"a": 30, "b": 30}, side=2)
    plain, tarred = held_out(tmp_path / "plain"), held_out(tmp_path / "tarred")
    assert [[f"top/{name}" for name in part] for part in plain] == list(tarred)
    assert [name[0] for name in plain[1]] == ["a"] * 6 + ["b"] * 6


def test_held_out_are_the_first_by_hash_of_each_class(tmp_path: Path) -> None:
    """The rule in plain Python: a name that was held out stays so in later versions."""
    write_classes(tmp_path, {"a": 23, "b/deep": 9, "c": 1}, side=2)
    _, held = held_out(tmp_path)

    def rank(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=8).digest()

    names = {"a": [f"a/{i}.png" for i in range(23)], "b": [f"b/deep/{i}.png" for i in range(9)]}
    expected = sorted(names["a"], key=rank)[:5] + sorted(names["b"], key=rank)[:2]
    assert held == sorted(expected)


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.png", "a-b/1.png", "a.png", "a0/1.png", "a/x/2.png", "é/1.png"],
        ["top/1.png", "top/a/b/2.png", "top/c/3.png"],
        ["1.png", "2.png"],
        ["Train/a/1.png", "train/b/2.png", "train.x/3.png", "val/a/4.png"],
    ],
)
def test_the_first_folder_of_each_image(tmp_path: Path, names: list[str]) -> None:
    """Bisection over sorted names finds what a look at each name does."""
    listing = list_folder(write(tmp_path, names, side=2))
    layout = folder_layout(listing)
    for part in filter(None, (layout.train, layout.test)):
        files = [listing.images[row] for row in part.rows]
        shared = os.path.commonpath([str(Path(file).parent) for file in files])
        if part.keys is None:
            assert any(str(Path(file).parent) == (shared or ".") for file in files)
            continue
        assert part.codes is not None
        found = [part.keys[code] for code in part.codes]
        assert found == [Path(file).relative_to(shared).parts[0] for file in files]
