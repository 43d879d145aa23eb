"""Every layout of folders and tars: the right images, labels and splits, or a line saying why."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data.sources.open import open_probe_source, open_source
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError, DataError
from tests.data.pictures import both, names, pack, picture, write, write_classes


def train_of(path: Path, share: float = 0.0) -> Source:
    return open_source(DataConfig(path=path, test_share=share), "train")


def test_class_folders(tmp_path: Path) -> None:
    source = train_of(write_classes(tmp_path, {"dog": 3, "cat": 2}))
    assert source.name == "folder" and source.classes == ("cat", "dog")
    assert source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 1]
    assert names(source)[0] == str(tmp_path / "cat" / "0.png")
    assert source.native_size == 8 and source.decode(4).shape == (3, 8, 8)
    assert source.encoded(4) == (tmp_path / "dog" / "2.png").read_bytes()


def test_classes_of_any_bytes_can_be_written_in_utf_8(tmp_path: Path) -> None:
    folders = ["a\nb", os.fsdecode(b"caf\xe9"), "na\u00efve"]
    source = train_of(write(tmp_path, [f"{folder}/{n}.png" for folder in folders for n in "12"]))
    assert source.classes == ("a\\nb", "caf\\udce9", "na\u00efve")
    assert source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_nested_folders_belong_to_the_class_above(tmp_path: Path) -> None:
    source = train_of(write(tmp_path, ["a/x/1.png", "a/y/deep/2.png", "a/3.png", "b/4.png"]))
    assert source.classes == ("a", "b") and source.labels is not None
    assert source.labels.tolist() == [0, 0, 0, 1]


def test_folders_that_all_share_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, ["photos/all/a/1.png", "photos/all/b/2.png"])
    assert train_of(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize("files", [["1.png", "2.png"], ["cat/1.png", "cat/2.png"], ["only.png"]])
def test_flat_or_one_class_is_unlabelled(tmp_path: Path, files: list[str]) -> None:
    source = train_of(write(tmp_path, files))
    assert len(source) == len(files) and source.labels is None and source.classes is None
    assert source.notes == ()


def test_images_beside_class_folders_leave_all_without_label(tmp_path: Path) -> None:
    source = train_of(write(tmp_path, ["1.png", "a/2.png", "b/3.png"]))
    assert len(source) == 3 and source.labels is None
    assert len(source.notes) == 1 and "1 of 3 images" in source.notes[0]


def test_other_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2, ".thumbnails": 3})
    write(tmp_path, ["a/._0.png"])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "PHOTO.JPG").write_bytes(picture())
    source = train_of(tmp_path)
    assert len(source) == 5 and source.ignored == 1


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write_classes(tmp_path / "elsewhere", {"b": 2})
    write_classes(tmp_path / "set", {"a": 2})
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    source = train_of(tmp_path / "set")
    assert len(source) == 4 and source.classes == ("a", "b")


@pytest.mark.parametrize("test_name", ["test", "val", "validation", "Val"])
def test_splits_by_folder(tmp_path: Path, test_name: str) -> None:
    write_classes(tmp_path, {"train/a": 3, "train/b": 3, f"{test_name}/b": 2})
    train, test = both(DataConfig(path=tmp_path))
    assert len(train) == 6 and train.classes == test.classes == ("a", "b")
    assert test.labels is not None and test.labels.tolist() == [1, 1]


def test_of_two_test_folders_the_one_with_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "test": 5})
    train, test = both(DataConfig(path=tmp_path))
    assert len(test) == 2 and test.labels is not None
    assert "5 images outside train/ and val/" in train.notes[0]


@pytest.mark.parametrize("folder", ["test", "test/images"])
def test_a_flat_test_folder_is_unlabelled(tmp_path: Path, folder: str) -> None:
    write_classes(tmp_path, {"train/a": 2, "train/b": 2, folder: 3})
    _, test = both(DataConfig(path=tmp_path))
    assert len(test) == 3 and test.labels is None


def test_a_class_that_training_does_not_know(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dogs": 1})
    with pytest.raises(DataError, match=r"'dogs'.*did you mean dog\?"):
        both(DataConfig(path=tmp_path))


@pytest.mark.parametrize("pack_it", [False, True])
def test_test_path_has_the_classes_of_the_training_images(tmp_path: Path, pack_it: bool) -> None:
    write_classes(tmp_path / "one", {"a": 4, "b": 4, "c": 4})
    path = write_classes(tmp_path / "two", {"c": 3})
    path = pack(path, tmp_path / "two.tar", "two") if pack_it else path
    train, test = both(DataConfig(path=tmp_path / "one", test_path=path))
    assert len(train) == 12, "nothing is held out"
    assert test.labels is not None and test.labels.tolist() == [2, 2, 2]
    assert test.classes == ("a", "b", "c")


def test_test_path_for_the_embedded_images(tmp_path: Path) -> None:
    write_classes(tmp_path, {"frog": 2, "cat": 1})
    test = open_source(DataConfig(test_path=tmp_path), "test")
    assert test.labels is not None and test.labels.tolist() == [3, 6, 6]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.35])
def test_held_out_share(tmp_path: Path, share: float) -> None:
    counts = {"a": 41, "b": 17, "c": 2, "d": 1}
    write_classes(tmp_path, counts, side=2)
    train, test = both(DataConfig(path=tmp_path, test_share=share))
    assert not set(names(train)) & set(names(test))
    assert len(train) + len(test) == 61
    assert train.labels is not None and test.labels is not None
    held = test.labels.bincount(minlength=4).tolist()
    expected = [max(1, round(share * count)) for count in counts.values()]
    assert held == [*expected[:3], 0], "at least one of a class, never its last"
    again = both(DataConfig(path=tmp_path, test_share=share))
    assert [names(part) for part in again] == [names(train), names(test)]


def test_held_out_images_stay_held_out_when_others_come(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 60, "b": 60}, side=2)
    before = set(names(both(DataConfig(path=tmp_path))[1]))
    write(tmp_path, ["a/new.png", "b/new.png"], side=2)
    after = set(names(both(DataConfig(path=tmp_path))[1]))
    assert len(before & after) >= len(before) - 2


def test_no_share_is_no_test(tmp_path: Path) -> None:
    config = DataConfig(path=write_classes(tmp_path, {"a": 3, "b": 3}), test_share=0)
    assert len(open_source(config, "train")) == 6
    with pytest.raises(DataError, match=r"--data\.test-path"):
        open_source(config, "test")


LAYOUTS = {
    "classes": {"a": 5, "b/deep": 5, "b": 1},
    "flat": {".": 9},
    "splits": {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2},
    "mixed": {".": 2, "a": 3},
}


@pytest.mark.parametrize("arcname", [".", "photos", "data/photos"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tar_is_its_folder(tmp_path: Path, layout: str, arcname: str) -> None:
    folder = write_classes(tmp_path / "photos", LAYOUTS[layout])
    (folder / "readme.txt").write_text("not an image")
    path = pack(folder, tmp_path / "x.tar", arcname)
    parts = zip(both(DataConfig(path=folder)), both(DataConfig(path=path)), strict=True)
    for one, two in parts:
        assert (one.name, two.name) == ("folder", "tar")
        assert [one.encoded(i) for i in range(len(one))] == [
            two.encoded(i) for i in range(len(two))
        ]
        assert one.classes == two.classes and one.ignored == two.ignored
        assert (one.labels is None) == (two.labels is None)
        if one.labels is not None and two.labels is not None:
            assert torch.equal(one.labels, two.labels)
        assert one.native_size == two.native_size == 8
        assert len(one.notes) == len(two.notes)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    for config in (
        DataConfig(path=tmp_path / "nowhere"),
        DataConfig(path=tmp_path / "nowhere.tar"),
        DataConfig(source="folder", path=tmp_path / "nowhere"),
        DataConfig(test_path=tmp_path / "nowhere"),
    ):
        with pytest.raises(DataError, match=r"nowhere.* does not exist"):
            open_source(config, "train")


def test_a_path_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DataError, match=r"holds no image \(1 other files.*\.jpg"):
        open_source(DataConfig(path=tmp_path), "train")
    with pytest.raises(DataError, match="no whole tar file"):
        open_source(DataConfig(path=tmp_path / "notes.txt"), "train")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DataConfig(source="cifar11"), r"--data\.source: unknown source 'cifar11' \(did you mean"),
        (DataConfig(source="nothing"), "known: auto, mini, cifar10"),
        (DataConfig(source="folder"), r"--data\.path"),
        (DataConfig(source="cifar10"), r"--data\.path: --data\.source cifar10 needs"),
        (DataConfig(download=True, path=Path("x")), r"--data\.source cifar10"),
    ],
)
def test_options_that_cannot_be(config: DataConfig, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_source(config, "train")


def test_folder_and_tar_mistaken_for_each_other(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "photos", {"a": 2, "b": 2})
    path = pack(folder, tmp_path / "photos.tar", "photos")
    with pytest.raises(ConfigError, match=r"--data\.source tar"):
        open_source(DataConfig(source="folder", path=path), "train")
    with pytest.raises(ConfigError, match=r"--data\.source folder"):
        open_source(DataConfig(source="tar", path=folder), "train")


def test_mixed_sizes_have_no_native_size(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "large.png").write_bytes(picture(side=9))
    source = train_of(tmp_path)
    assert source.native_size is None
    assert source.subset(torch.arange(5)).native_size == 8


def test_subset(tmp_path: Path) -> None:
    source = train_of(write_classes(tmp_path, {"a": 3, "b": 3}))
    part = source.subset(torch.tensor([4, 1]))
    again = part.subset(torch.tensor([1]))
    assert len(part) == 2 and part.labels is not None and part.labels.tolist() == [1, 0]
    assert torch.equal(part.decode(0), source.decode(4))
    assert again.where(0) == source.where(1) and len(source) == 6


def test_a_pickled_source_reads_the_same(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "photos", {"a": 3, "b": 3})
    for path in (None, folder, pack(folder, tmp_path / "photos.tar", "photos")):
        source = open_source(DataConfig(path=path), "train")
        first = source.decode(0)
        copy = pickle.loads(pickle.dumps(source))
        assert torch.equal(copy.decode(0), first) and copy.where(1) == source.where(1)
        assert source.labels is not None and torch.equal(copy.labels, source.labels)
        assert copy.native_size == source.native_size


def test_the_probe_of_a_folder_is_its_training_split(tmp_path: Path) -> None:
    config = DataConfig(path=write_classes(tmp_path, {"a": 9, "b": 9}))
    assert names(open_probe_source(config)) == names(open_source(config, "train"))


@pytest.mark.parametrize("option", ["path", "test_path"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300, "File name too long"),
        ("loop/images", "Too many levels of symbolic links"),
        ("zero\0byte", "embedded null byte"),
        ("~no-such-user-here/images", "home directory"),
    ],
)
def test_paths_that_cannot_be_looked_at(
    option: str, name: str, reason: str, tmp_path: Path
) -> None:
    write_classes(tmp_path / "good", {"a": 4})
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = Path(name) if name.startswith("~") else tmp_path / name
    config = DataConfig(**{"path": tmp_path / "good", option: path})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=reason) as caught:
        open_source(config, "test")
    told = str(caught.value)
    assert told.startswith(f"--data.{option.replace('_', '-')}: ")
    assert told.isprintable() and len(told) < 500
