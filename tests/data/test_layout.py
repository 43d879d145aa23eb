"""Tiny ImageNet's own layout, and what of a folder is held out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ssgear.config.schema import DataConfig
from ssgear.data.layout import Part, hold_out, shared_folders
from ssgear.data.sources import open_source
from ssgear.errors import DataError
from tests.data.pictures import both, pack, write, write_classes

WNIDS = {"n01443537": "goldfish, Carassius auratus", "n02012849": "crane", "n03126707": "crane"}


def write_tiny(root: Path, val: dict[str, str]) -> Path:
    """Write the layout of Tiny ImageNet with three classes and these validation images."""
    for wnid in WNIDS:
        write(root, [f"train/{wnid}/images/{wnid}_{i}.JPEG" for i in range(3)])
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1")
    write(root, [f"val/images/{name}" for name in val])
    lines = [f"{name}\t{wnid}\t0\t0\t1\t1\n" for name, wnid in val.items()]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    words = ["n00000000\tentity", *(f"{wnid}\t{words}" for wnid, words in WNIDS.items())]
    (root / "words.txt").write_text("\n".join(words))
    return root


VAL = {"val_0.JPEG": "n03126707", "val_1.JPEG": "n01443537", "val_2.JPEG": "n01443537"}


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
    assert shared_folders(["a/b/1", "a/b/2"]) == "a/b/"
    assert shared_folders(["a/b/1", "a/b/2"], keep=["b"]) == "a/"
    assert shared_folders(["a-b/1", "a/1", "ab/1"]) == ""
    assert shared_folders(["a"]) == ""


def test_holding_out_does_not_see_what_a_tar_puts_before_the_names() -> None:
    files = [f"{name}/{number}" for name in "ab" for number in range(30)]
    plain = Part(names=tuple(files), keys=tuple(file[0] for file in files))
    tarred = Part(names=tuple(f"top/{file}" for file in files), keys=plain.keys)
    train, test = hold_out(plain, 0.2, "")
    assert [f"top/{name}" for name in test.names] == list(hold_out(tarred, 0.2, "top/")[1].names)
    assert test.keys == ("a",) * 6 + ("b",) * 6
    assert sorted((*train.names, *test.names)) == sorted(files)
