"""Which image and which view an item of a store is, also where a file cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.storage.view_store import digest_of, source_id
from ssgear.views.jobs.originals import open_originals

CONFIG = DataConfig(test_share=0, workers=0, max_bad_share=0.5)


def folder(path: Path, count: int = 5, bad: tuple[int, ...] = ()) -> Path:
    path.mkdir()
    for number in range(count):
        file = path / f"{number}.png"
        Image.fromarray(np.full((9, 9, 3), 10 * number, dtype=np.uint8)).save(file)
        if number in bad:
            file.write_bytes(b"no image")
    return path


def opened(path: Path, size: int = 8):  # type: ignore[no-untyped-def]
    return open_originals(DataConfig(**{**vars(CONFIG), "path": path}), size)


def test_views_follow_one_another(tmp_path: Path) -> None:
    found = opened(folder(tmp_path / "a"))
    assert len(found) == 5
    names = [found.name_of(item) for item in range(12)]
    assert names == [(source_id(f"{item % 5}.png"), item // 5) for item in range(12)]
    about = found.about(7)
    data = (tmp_path / "a" / "2.png").read_bytes()
    assert about == {"source": "2.png", "source_blake2b": digest_of(data)}
    images = found.load(range(3, 8))
    assert images.shape == (5, 3, 8, 8) and images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [30, 40, 0, 10, 20]


def test_a_bad_file_takes_nobodys_place(tmp_path: Path) -> None:
    found = opened(folder(tmp_path / "a", bad=(1,)))
    assert [found.name_of(item) for item in range(5)] == [
        (source_id(f"{number}.png"), view)
        for number, view in ((0, 0), (2, 0), (3, 0), (4, 0), (0, 1))
    ]
    assert found.load([1, 3])[:, 0, 0, 0].tolist() == [20, 40]


def test_settings_tell_sets_apart_and_do_not_say_where_they_lie(tmp_path: Path) -> None:
    whole = opened(folder(tmp_path / "a")).settings
    assert whole == opened(folder(tmp_path / "b")).settings
    assert (whole["source"], whole["images"]) == ("folder", 5)
    others = [
        opened(folder(tmp_path / "fewer", 4)),
        opened(folder(tmp_path / "bad", 6, bad=(2,))),
        opened(tmp_path / "a", size=4),
    ]
    digests = {whole["images_blake2b"], *(each.settings["images_blake2b"] for each in others)}
    assert len(digests) == 4
    assert others[1].settings["images"] == 5


def test_the_test_split_is_left_out(tmp_path: Path) -> None:
    config = DataConfig(test_share=0.4, workers=0, path=folder(tmp_path / "a", 20))
    assert len(open_originals(config, 8)) == pytest.approx(12, abs=4)


def test_what_cannot_be_read_any_more_is_grey_and_named(tmp_path: Path) -> None:
    found = opened(folder(tmp_path / "a"))
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    pixels, about, unreadable = found.read(range(2, 7))
    assert torch.equal(pixels[[0, 2, 3, 4]], found.load([2, 4, 0, 1]))
    assert (pixels[1] == 128).all() and unreadable == {1: "not an image that can be read"}
    assert about == [found.about(2), {}, found.about(4), found.about(0), found.about(1)]


def test_settings_tell_names_apart(tmp_path: Path) -> None:
    """A view is found by the name of its image, so a set of other names is another set."""
    before = opened(folder(tmp_path / "a")).settings
    (tmp_path / "a" / "4.png").rename(tmp_path / "a" / "5.png")
    after = opened(tmp_path / "a").settings
    assert before["images_blake2b"] != after["images_blake2b"]
