from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.sources import Source, open_source, scan
from ssgear.errors import DataError
from ssgear.evaluation.images import EvalData, EvalImages, ImageRows, fingerprint

MINI = DataConfig()


def photos(folder: Path, *, classes: int = 2, each: int = 3, age_s: float = 60) -> DataConfig:
    for number in range(classes):
        (folder / f"c{number}").mkdir(parents=True, exist_ok=True)
        for row in range(each):
            file = folder / f"c{number}" / f"{row}.png"
            Image.new("RGB", (9, 12), (40 * number, 20 * row, 7)).save(file)
            stamp = file.stat().st_mtime - age_s
            os.utime(file, (stamp, stamp))
    return DataConfig(path=folder, test_share=0.34)


def test_rows_are_decoded_when_asked_for() -> None:
    source, _ = scan(open_source(MINI, "test"), MINI)
    rows = ImageRows(source, 16)
    assert rows.shape == (len(source), 3, 16, 16) and len(rows) == len(source)
    some = rows[torch.tensor([7, 0])]
    assert some.dtype == torch.uint8 and torch.equal(some[1], rows[:1][0])
    assert torch.equal(rows[5:9], rows[torch.arange(5, 9)])
    held = ImageRows(source, 16, decoded=rows[:])
    assert torch.equal(held[3:5], rows[3:5]) and held.state == rows.state != ""
    part = held.evenly(10)
    assert len(part) == 10 and torch.equal(part[:], rows.evenly(10)[:])
    assert torch.equal(part[9:], rows[len(rows) - 1 :])


def test_no_image_stands_twice_among_those_evenly_spread() -> None:
    class Many:
        def __len__(self) -> int:
            return 100_000

        def subset(self, rows: torch.Tensor) -> torch.Tensor:
            return rows

    part = ImageRows(cast(Source, Many()), 8).evenly(99_999)
    assert len(set(cast(torch.Tensor, part.source).tolist())) == 99_999


def test_the_state_changes_with_a_file_and_with_the_size(tmp_path: Path) -> None:
    config = photos(tmp_path)
    source = open_source(config, "train")
    state = ImageRows(source, 8).state
    assert state and state == ImageRows(source, 8).state != ImageRows(source, 9).state
    file = next(tmp_path.rglob("0.png"))
    Image.new("RGB", (9, 12), (1, 2, 3)).save(file)
    assert ImageRows(source, 8).state == ""  # it may change again within the clock's resolution
    os.utime(file, (1e9, 1e9))
    assert ImageRows(source, 8).state not in ("", state)


def test_the_fingerprint_knows_names_and_labels_not_places(tmp_path: Path) -> None:
    first, second = photos(tmp_path / "a"), photos(tmp_path / "b")
    prints = [fingerprint(open_source(config, "test")) for config in (first, second)]
    assert prints[0] == prints[1]
    assert fingerprint(open_source(photos(tmp_path / "c", classes=3), "test")) != prints[0]


def test_data_without_two_classes_is_refused(tmp_path: Path) -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    def data(labels: torch.Tensor | None) -> EvalData:
        return EvalData(
            train_images=images, train_labels=labels, test_images=images, test_labels=labels
        )

    assert data(torch.tensor([0, 1, 1, 0])).labels[0].tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError, match="needs labels and these images have none"):
        _ = data(None).labels
    with pytest.raises(DataError, match="at least two classes and all training images are of one"):
        _ = data(torch.ones(4, dtype=torch.long)).labels


def test_images_are_thinned_evenly_and_bad_files_named(tmp_path: Path) -> None:
    config = photos(tmp_path, classes=2, each=40)
    bad = tmp_path / "c0" / "0.png"
    bad.write_bytes(b"no image")
    images = EvalImages(data=DataConfig(path=tmp_path, test_share=0.34, max_bad_share=0.1))
    data, facts = images.load(8)
    assert facts["num_train"] == len(data.train_images) == len(data.train_labels)  # type: ignore[arg-type]
    assert facts["bad_files"] and "0.png" in str(facts["bad_files"])
    assert data.train_names is not None and len(data.train_names) == len(data.train_images)
    thin, _ = EvalImages(data=images.data, max_images=9).load(8)
    assert len(thin.train_images) == len(thin.test_images) == 9
    assert thin.labelled and config.path == tmp_path
