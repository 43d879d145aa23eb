"""Writing, finishing, reading and verifying a view store."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssgear.errors import CheckpointError, ConfigError, DataError
from ssgear.storage.lock import hold
from ssgear.storage.shards import tar_bytes
from ssgear.storage.store_writer import Sample, Writer, create
from ssgear.storage.view_store import StoreInfo, ViewStore, source_id, verify

INFO = StoreInfo(
    count=7, shard_size=3, encoding="webp", size=9,
    settings={"generator": "gan", "seed": 5, "parameters": {"truncation": 0.7}},
)  # fmt: skip


def pixels(item: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(item).integers(0, 256, (9, 9, 3), dtype=np.uint8)


def samples(items: Iterable[int]) -> list[Sample]:
    return [Sample(id=f"{i:05d}", pixels=pixels(i), metadata={"label": i % 2}) for i in items]


def fill(writer: Writer, shards: Iterable[int] | None = None) -> None:
    for shard in writer.missing() if shards is None else shards:
        writer.write_shard(shard, samples(writer.info.items_of(shard)))


def make(root: Path, info: StoreInfo = INFO, shards: Iterable[int] | None = None) -> Path:
    with create(root, info) as writer:
        fill(writer, shards)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name != ".lock"}


def test_items_are_read_back_in_any_order(tmp_path: Path) -> None:
    store = pickle.loads(pickle.dumps(ViewStore(make(tmp_path / "store"))))
    assert len(store) == 7 and store.info == INFO
    for item in (6, 0, 3, 2):
        image = Image.open(io.BytesIO(store.encoded(item)))
        assert image.format == "WEBP"
        np.testing.assert_array_equal(np.asarray(image), pixels(item))  # nothing is lost
        fields = store.metadata(item)
        assert (fields["id"], fields["k"], fields["label"]) == (f"{item:05d}", 0, item % 2)
    assert store.where(4) == f"{tmp_path / 'store' / '000001.tar'}: image 4"
    assert verify(tmp_path / "store") == []


def test_a_short_shard_is_not_made_up_for_by_a_long_one(tmp_path: Path) -> None:
    make(tmp_path)
    with create(tmp_path / "long", replace(INFO, shard_size=5)) as writer:
        fill(writer, [0])
    (tmp_path / "long" / "000000.tar").replace(tmp_path / "000001.tar")
    (tmp_path / "000002.tar").unlink()
    with pytest.raises(DataError, match="holds 6 of 7 images"):
        ViewStore(tmp_path)


def test_shards_have_the_layout_of_webdataset(tmp_path: Path) -> None:
    with tarfile.open(make(tmp_path / "store") / "000002.tar") as archive:
        assert archive.getnames() == ["00006.0.webp", "00006.0.json"]


def test_jpg_is_written_where_asked_for(tmp_path: Path) -> None:
    store = ViewStore(make(tmp_path, replace(INFO, encoding="jpg")))
    image = Image.open(io.BytesIO(store.encoded(0)))
    assert image.format == "JPEG"
    with tarfile.open(tmp_path / "000000.tar") as archive:
        assert archive.getnames()[0] == "00000.0.jpg"


def test_a_part_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    whole = contents(make(tmp_path / "whole"))
    part = make(tmp_path / "part", shards=(1,))
    (part / ".ssgear-partial-000002.tar-1-ab").write_bytes(b"killed")
    with pytest.raises(DataError, match=r"--x: .*part: holds 3 of 7 images; finish it"):
        ViewStore(part, option="--x")
    before = (part / "000001.tar").stat().st_mtime_ns
    with create(part, INFO) as writer:
        assert writer.missing() == [0, 2]
        fill(writer)
    assert contents(part) == whole and (part / "000001.tar").stat().st_mtime_ns == before


def test_a_store_grows_and_never_shrinks(tmp_path: Path) -> None:
    root = make(tmp_path / "store")
    first = (root / "000000.tar").stat().st_mtime_ns
    with create(root, replace(INFO, count=11)) as writer:
        assert writer.missing() == [2, 3]
        with pytest.raises(DataError, match="holds 7 of 11"):
            ViewStore(root)
        fill(writer)
    assert contents(root) == contents(make(tmp_path / "at once", replace(INFO, count=11)))
    assert (root / "000000.tar").stat().st_mtime_ns == first
    with create(root, INFO) as writer:
        assert writer.info.count == 11 and writer.missing() == []


def test_a_damaged_shard_counts_as_missing(tmp_path: Path) -> None:
    whole = contents(make(tmp_path))
    shard = tmp_path / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with create(tmp_path, INFO) as writer:
        assert writer.missing() == [1]
        fill(writer)
    assert contents(tmp_path) == whole


CHANGES: dict[str, tuple[StoreInfo, str]] = {
    "seed": (replace(INFO, settings={**INFO.settings, "seed": 6}), "seed (5, now 6)"),
    "nested": (
        replace(INFO, settings={**INFO.settings, "parameters": {"truncation": 1.0}}),
        "truncation (0.7, now 1.0)",
    ),
    "new": (replace(INFO, settings={**INFO.settings, "more": 1}), "more (None, now 1)"),
    "two": (replace(INFO, encoding="jpg", size=8), "encoding (webp, now jpg); size (9, now 8)"),
    "shards": (replace(INFO, shard_size=4), "shard_size (3, now 4)"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_other_settings_are_refused_by_name(case: str, tmp_path: Path) -> None:
    before, (info, said) = contents(make(tmp_path)), CHANGES[case]
    with pytest.raises(ConfigError) as caught, create(tmp_path, info):
        pass
    assert f"made with other settings: {said}; use those" in str(caught.value)
    assert contents(tmp_path) == before


def test_only_an_empty_directory_or_a_store_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for root, said in ((tmp_path, "holds other files .notes.txt."), (tmp_path / "notes.txt", "is")):
        with pytest.raises(ConfigError, match=said), create(root, INFO):
            pass
    with hold(tmp_path / "busy"), pytest.raises(CheckpointError, match="another run writes into"):
        make(tmp_path / "busy")
    assert not (tmp_path / "busy" / "store.json").exists()


def test_writing_less_than_a_shard_and_odd_ids_are_our_bugs(tmp_path: Path) -> None:
    with create(tmp_path, INFO) as writer:
        with pytest.raises(ValueError, match="2 items are not all of it"):
            writer.write_shard(0, samples(range(2)))
        odd = [replace(sample, id="a.b") for sample in samples(range(3))]
        with pytest.raises(ValueError, match="letters, digits"):
            writer.write_shard(0, odd)
    assert not (tmp_path / "000000.tar").exists()


def set_info(**changes: object) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        file = root / "store.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no store": (lambda root: (root / "store.json").unlink(), "is no view store"),
    "no json": (lambda root: (root / "store.json").write_text("{"), "store.json is damaged"),
    "a list": (lambda root: (root / "store.json").write_text("[]"), "store.json is damaged"),
    "format": (set_info(format=9), "format 9 is not one"),
    "count": (set_info(count="7"), "count, shard_size and size are"),
    "shard size": (set_info(shard_size=0), "count, shard_size and size are"),
    "encoding": (set_info(encoding="bmp"), "encoding is 'bmp'"),
    "more": (set_info(odd=1), "odd"),
    "shard gone": (lambda root: (root / "000001.tar").unlink(), "holds 4 of 7"),
    "shard cut": (lambda root: (root / "000001.tar").write_bytes(b"x" * 600), "damaged or cut"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_stores(case: str, tmp_path: Path) -> None:
    damage, message = BAD[case]
    damage(make(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        ViewStore(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_verify_names_every_damaged_place(tmp_path: Path) -> None:
    store = ViewStore(make(tmp_path))
    (tmp_path / "000000.tar").unlink()
    shard = bytearray((tmp_path / "000001.tar").read_bytes())
    shard[shard.index(store.encoded(4)) + 40] ^= 1
    (tmp_path / "000001.tar").write_bytes(shard)
    problems = verify(tmp_path)
    assert [problem.split(": ", 1)[0] for problem in problems] == [
        f"{tmp_path / '000000.tar'}",
        f"{tmp_path / '000001.tar'}:00004.0.webp",
    ]
    assert "the image is not the one that was written" in problems[1]


def test_an_upscaled_source_stands_among_its_views(tmp_path: Path) -> None:
    source = source_id("cat/1.jpg")
    assert source == source_id("cat/1.jpg") != source_id("cat/2.jpg") and len(source) == 20
    wide = np.random.default_rng(5).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    items = [
        Sample(id=source, k=0, pixels=pixels(0), metadata={"source": "cat/1.jpg"}),
        Sample(id=source, k="up", pixels=wide, metadata={"source": "cat/1.jpg"}),
        Sample(id="000007", k=12, pixels=pixels(1), metadata={}),
    ]
    with create(tmp_path, replace(INFO, count=3)) as writer:
        writer.write_shard(0, items)
        assert writer.missing() == []
    store = pickle.loads(pickle.dumps(ViewStore(tmp_path)))
    assert store.ids.tolist() == [source.encode(), source.encode(), b"000007"]
    assert store.is_upscaled.tolist() == [False, True, False]
    assert (store.ks[0], store.ks[2]) == (0, 12)
    fields = store.metadata(1)
    assert (fields["k"], fields["size"], fields["source"]) == ("up", [12, 20], "cat/1.jpg")
    np.testing.assert_array_equal(Image.open(io.BytesIO(store.encoded(1))), wide)
    assert verify(tmp_path) == []


def test_verify_names_an_upscaled_source_of_another_size_than_its_json(tmp_path: Path) -> None:
    with create(tmp_path, replace(INFO, count=1)) as writer:
        writer.write_shard(0, [Sample(id="a", k="up", pixels=pixels(0), metadata={})])
    path = tmp_path / "000000.tar"
    path.write_bytes(path.read_bytes().replace(b'"size": [9, 9]', b'"size": [9, 8]'))
    assert verify(tmp_path) == [f"{path}:a.up.webp: 9 x 9 pixels, not 8 x 9"]


@pytest.mark.parametrize("name", ["a.b.0", "a.-1", "a.down", "a", "a.1234567890"])
def test_a_shard_with_names_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    make(tmp_path)
    members = [(f"{name}.webp", b""), (f"{name}.json", b"")] * 3
    (tmp_path / "000001.tar").write_bytes(tar_bytes(members))
    with pytest.raises(DataError, match=r"000001\.tar: .* stands where ID\.K\.webp"):
        ViewStore(tmp_path)
