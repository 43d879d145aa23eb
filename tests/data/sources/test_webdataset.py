"""Samples of WebDataset shards: which images, which labels, which splits; damaged shards."""

from __future__ import annotations

import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data.sources import readers, webdataset
from ssgear.data.sources.decode import open_rgb, to_tensor
from ssgear.data.sources.loading import scan
from ssgear.data.sources.open import open_probe_source, open_source
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError, DataError
from ssgear.storage import cache
from tests.data.pictures import age, both, picture, write_shard


def samples(count: int, first: int = 0, field: str = "cls") -> dict[str, bytes]:
    """Samples whose label is their number modulo 3, in the order that writers use."""
    members: dict[str, bytes] = {}
    for number in range(first, first + count):
        text = str(number % 3) if field == "cls" else json.dumps({"label": number % 3, "a": "b"})
        members[f"{number:04d}.{field}"] = text.encode()
        members[f"{number:04d}.png"] = picture(number)
    return members


def write_set(root: Path, name: str = "train", count: int = 3) -> Path:
    for shard in range(count):
        write_shard(root / f"{name}-{shard:04d}.tar", samples(4, 4 * shard))
    return root


def opened(path: Path, split: str = "train", **options: object) -> Source:
    return open_source(DataConfig(path=path, test_share=0, **options), split)  # type: ignore[arg-type]


def whole(source: Source) -> list[torch.Tensor]:
    return [source.decode(index) for index in range(len(source))]


@pytest.mark.parametrize("pattern", [".", "train-{0000..0002}.tar", "train-*.tar"])
@pytest.mark.parametrize("field", ["cls", "json"])
def test_a_set_of_shards(tmp_path: Path, pattern: str, field: str) -> None:
    for shard in range(3):
        write_shard(tmp_path / f"train-{shard:04d}.tar", samples(4, 4 * shard, field))
    source = opened(tmp_path / pattern)
    assert source.name == "webdataset" and len(source) == 12 and source.notes == ()
    assert source.classes == ("0", "1", "2")
    assert source.labels is not None and source.labels.tolist() == [0, 1, 2] * 4
    assert source.where(5) == f"{tmp_path}/train-0001.tar:0005.png"
    for number, image in enumerate(whole(source)):
        assert torch.equal(image, to_tensor(open_rgb(picture(number))))
    assert source.encoded(7) == picture(7) and source.native_size == 8
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.decode(11), source.decode(11))
    part = source.subset(torch.tensor([9, 2]))
    assert part.where(0) == f"{tmp_path}/train-0002.tar:0009.png"


def test_which_images_a_key_has(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "s.tar",
        {
            "a/1.png": b"plain", "a/1.seg.png": b"a mask", "a/1.txt": b"words",
            "b/1.left.jpg": b"left", "b/1.right.JPG": b"right", "b/1.json": b"{}",
            "2.webp": b"first", "2.jpg": b"second",
            "3.txt": b"no image", ".hidden.png": b"-", "d/.x/4.png": b"-", "noext": b"-",
        },
    )  # fmt: skip
    source = opened(tmp_path)
    found = [source.encoded(index) for index in range(len(source))]
    assert found == [b"plain", b"left", b"right", b"first"]
    assert source.labels is None and source.notes == ()


def test_images_without_label_leave_all_without(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_shard(
        tmp_path / "train-0009.tar",
        {"x.png": picture(), "y.png": picture(), "y.cls": b"\xff", "z.png": picture(),
         "z.cls": b"1"},
    )  # fmt: skip
    source = opened(tmp_path)
    assert source.labels is None and len(source) == 15
    assert len(source.notes) == 1 and "2 of 15 images have no .cls" in source.notes[0]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ('{"label": 7}', "7"), ('{"cls": "dog"}', "dog"), ('{"class": " 3 "}', "3"),
        ('{"label": [1]}', None), ('{"label": true}', None), ("[1]", None), ("{", None),
    ],
)  # fmt: skip
def test_labels_in_json(tmp_path: Path, content: str, label: str | None) -> None:
    data = {"1.png": b"-", "1.json": content.encode()}
    found = list(webdataset._samples(write_shard(tmp_path / "s.tar", data)))
    assert [each for _, each in found] == [label]


def test_classes_are_ordered_as_numbers(tmp_path: Path) -> None:
    texts = ["10", "9", " 2\n", "10"]
    data = {f"{i}.{field}": value for i, text in enumerate(texts)
            for field, value in (("png", picture(i)), ("cls", text.encode()))}  # fmt: skip
    write_shard(tmp_path / "s.tar", data)
    source = opened(tmp_path)
    assert source.classes == ("2", "9", "10")
    assert source.labels is not None and source.labels.tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("train", "test"),
    [("in-train", "in-val"), ("train/x", "validation/x"), ("Train", "TEST"), ("train", "valid")],
)
def test_splits_by_the_shards_names(tmp_path: Path, train: str, test: str) -> None:
    write_set(tmp_path, train)
    write_set(tmp_path, test, 1)
    one, two = both(DataConfig(path=tmp_path))
    assert (len(one), len(two)) == (12, 4) and one.classes == two.classes == ("0", "1", "2")
    assert two.labels is not None and two.labels.tolist() == [0, 1, 2, 0]
    assert one.notes == ()


def test_a_share_is_held_out_and_other_paths_name_tests(tmp_path: Path) -> None:
    write_set(tmp_path / "one", count=8)
    write_set(tmp_path / "two", "x", 2)
    train, test = both(DataConfig(path=tmp_path / "one", test_share=0.2))
    assert len(test) == 6 and len(train) == 26
    assert test.labels is not None and test.labels.bincount().tolist() == [2, 2, 2]
    for path in (tmp_path / "two", tmp_path / "two" / "x-{0000..0001}.tar"):
        train, test = both(DataConfig(path=tmp_path / "one", test_path=path))
        assert (len(train), len(test)) == (32, 8) and test.classes == train.classes
    shard = tmp_path / "two" / "x-0001.tar"
    _, test = both(DataConfig(path=tmp_path / "one", test_path=shard))
    assert len(test) == 4 and test.labels is not None, "a shard, as the training images are"
    config = DataConfig(path=tmp_path / "one")
    assert len(open_probe_source(config)) == len(open_source(config, "train"))


def test_one_shard_by_name(tmp_path: Path) -> None:
    write_set(tmp_path, count=1)
    source = opened(tmp_path / "train-0000.tar", source="webdataset")
    assert source.classes == ("0", "1", "2") and len(source) == 4
    assert opened(tmp_path / "train-0000.tar").classes is None, "alone it is a tar of a folder"


@pytest.mark.parametrize("place", [700, 5000, -1600])
def test_a_truncated_shard_is_named(tmp_path: Path, place: int) -> None:
    write_set(tmp_path)
    shard = tmp_path / "train-0001.tar"
    shard.write_bytes(shard.read_bytes().rstrip(b"\0")[:place])
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert str(caught.value).startswith(f"{shard}: ") and "\n" not in str(caught.value)


def test_a_bad_member_is_a_bad_image(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_shard(tmp_path / "train-0003.tar", {**samples(3), "9.png": b"none", "9.cls": b"1"})
    config = DataConfig(path=tmp_path, test_share=0, max_bad_share=0.1)
    good, _ = scan(open_source(config, "train"), config)
    assert [bad.where for bad in good.bad] == [f"{tmp_path}/train-0003.tar:9.png"]
    assert len(good) == 15 and good.labels is not None and len(good.labels) == 15


def test_shards_without_images_and_other_mistakes(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.tar", {"1.txt": b"words"})
    with pytest.raises(DataError, match="none of 1 shards holds an image"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"--data\.path: .*nowhere does not exist"):
        opened(tmp_path / "nowhere", source="webdataset")
    with pytest.raises(ConfigError, match=r"--data\.path: --data\.source webdataset needs"):
        open_source(DataConfig(source="webdataset"), "train")
    with pytest.raises(ConfigError, match=r"--data\.labels: webdataset has labels of its own"):
        opened(tmp_path, labels=Path("x.csv"))


def test_shards_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "WORTH", 1)
    age(write_set(tmp_path))
    first = opened(tmp_path)
    listed: list[str] = []
    real = webdataset.tar_members

    def listing(path: Path) -> object:
        listed.append(path.name)
        return real(path)

    monkeypatch.setattr(webdataset, "tar_members", listing)
    second = opened(tmp_path)
    assert listed == []
    assert first.labels is not None and second.labels is not None
    assert torch.equal(first.labels, second.labels) and second.classes == first.classes
    assert all(map(torch.equal, whole(first), whole(second)))
    write_shard(tmp_path / "train-0001.tar", samples(2))
    assert len(opened(tmp_path)) == 10 and listed == ["train-0001.tar"]
    for file in cache.folder().glob("shard-*"):
        file.write_bytes(b"damaged")
    assert len(opened(tmp_path)) == 10 and len(listed) == 4


def test_few_handles_serve_many_shards_in_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_HANDLES", 3)
    source = opened(write_set(tmp_path, count=7))
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(source.encoded, list(range(28)) * 100))
    assert found == [picture(number) for number in range(28)] * 100
    assert len(os.listdir("/proc/self/fd")) <= before + 3
