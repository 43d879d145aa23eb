"""Labels from a CSV file: they fit the folder, or one line says where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssgear.config.schema import DataConfig
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import Source
from ssgear.errors import DataError
from tests.data.pictures import both, names, pack, write


def named_labels(source: Source) -> dict[str, str]:
    """Class of each image by its file name's last two parts."""
    assert source.labels is not None and source.classes is not None
    classes = [source.classes[label] for label in source.labels.tolist()]
    ends = ["/".join(name.split("/")[-2:]) for name in names(source)]
    return dict(zip(ends, classes, strict=True))


def test_labels_from_a_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", ["1.png", "2.png", "x/3.png"])
    (tmp_path / "labels.csv").write_text("file,label\n1.png,10\n./x/3.png,9\n2.png,9\n")
    for path in (folder, pack(folder, tmp_path / "photos.tar", "photos")):
        config = DataConfig(path=path, labels=tmp_path / "labels.csv", test_share=0)
        assert named_labels(open_source(config, "train")) == {
            "photos/1.png": "10", "photos/2.png": "9", "x/3.png": "9",
        }  # fmt: skip
        assert open_source(config, "train").classes == ("9", "10")


def test_labels_for_splits(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", ["train/1.png", "train/2.png", "test/1.png", "val/7.png"])
    labels = tmp_path / "labels.csv"
    labels.write_text("train/1.png,a\ntrain/2.png,b\n")
    train, test = both(DataConfig(path=folder, labels=labels))
    assert train.labels is not None and test.labels is None
    labels.write_text("train/1.png,a\ntrain/2.png,b\nval/7.png,b\n")
    _, test = both(DataConfig(path=folder, labels=labels))
    assert test.labels is not None and names(test) == [str(folder / "val/7.png")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1.png,a\n2.png,b\n3.png,a\n", r"names 1 files that are not images.*3\.png"),
        ("1.png,a\n", r"1 of 2 images.*have no line, 2\.png first"),
        ("1.png,a\n2.png\n", "write lines of file,label"),
        ("1.png,a\n2.png,\n", "write lines of file,label"),
        ("1.png,a\n2.png,b\n1.png,b\n", "two labels"),
        ("file,label\n", "no line of the form"),
        ("", "no line of the form"),
        ('1.png,"a\n', "cannot be read"),
    ],
)
def test_labels_that_disagree(tmp_path: Path, text: str, told: str) -> None:
    folder = write(tmp_path / "photos", ["1.png", "2.png"])
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=told) as caught:
        open_source(DataConfig(path=folder, labels=tmp_path / "labels.csv"), "train")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(DataConfig(path=folder, labels=tmp_path / "no.csv"), "train")
