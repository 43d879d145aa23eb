"""Writing, finishing, reading and verifying a view store."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssgear.errors import ConfigError, DataError, StorageError
from ssgear.storage.shards import tar_blocks
from ssgear.storage.store_check import verify
from ssgear.storage.store_marker import Failed, read_marker
from ssgear.storage.store_writer import Sample, Writer, create
from ssgear.storage.view_store import StoreInfo, ViewStore, source_id

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
    fill(create(root, info), shards)
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
    fill(create(tmp_path / "long", replace(INFO, shard_size=5)), [0])
    (tmp_path / "long" / "000000.tar").replace(tmp_path / "000001.tar")
    marker = json.loads((tmp_path / "long" / "000000.json").read_text())
    (tmp_path / "000001.json").write_text(json.dumps({**marker, "shard": 1}))
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
    writer = create(part, INFO)
    assert writer.missing() == [0, 2]
    fill(writer)
    assert contents(part) == whole and (part / "000001.tar").stat().st_mtime_ns == before


def test_a_store_grows_and_never_shrinks(tmp_path: Path) -> None:
    root = make(tmp_path / "store")
    first = (root / "000000.tar").stat().st_mtime_ns
    writer = create(root, replace(INFO, count=11))
    assert writer.missing() == [2, 3]
    with pytest.raises(DataError, match="holds 7 of 11"):
        ViewStore(root)
    fill(writer)
    assert contents(root) == contents(make(tmp_path / "at once", replace(INFO, count=11)))
    assert (root / "000000.tar").stat().st_mtime_ns == first
    writer = create(root, INFO)
    assert writer.info.count == 11 and writer.missing() == []


def test_a_full_disk_costs_nothing_of_the_shard_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path)
    writer = create(root, replace(INFO, count=9))
    before = contents(root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", full)
        fill(writer, [2])  # what it held before, and more
    assert contents(root) == before


def test_a_damaged_shard_counts_as_missing(tmp_path: Path) -> None:
    whole = contents(make(tmp_path))
    shard = tmp_path / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    writer = create(tmp_path, INFO)
    assert writer.missing() == [1]
    fill(writer)
    assert contents(tmp_path) == whole


CHANGES: dict[str, tuple[StoreInfo, str]] = {
    "seed": (replace(INFO, settings={**INFO.settings, "seed": 6}), "seed (5, now 6)"),
    "nested": (
        replace(INFO, settings={**INFO.settings, "parameters": {"truncation": 1.0}}),
        "parameters.truncation (0.7, now 1.0)",
    ),
    "new": (replace(INFO, settings={**INFO.settings, "more": 1}), "more (None, now 1)"),
    "two": (replace(INFO, encoding="jpg", size=8), "encoding (webp, now jpg); size (9, now 8)"),
    "shards": (replace(INFO, shard_size=4), "shard_size (3, now 4)"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_other_settings_are_refused_by_name(case: str, tmp_path: Path) -> None:
    before, (info, said) = contents(make(tmp_path)), CHANGES[case]
    with pytest.raises(ConfigError) as caught:
        create(tmp_path, info)
    assert f"made with other settings: {said}; use those" in str(caught.value)
    assert contents(tmp_path) == before


def test_only_an_empty_directory_or_a_store_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for root, said in ((tmp_path, "holds other files .notes.txt."), (tmp_path / "notes.txt", "is")):
        with pytest.raises(ConfigError, match=said):
            create(root, INFO)
    with pytest.raises(StorageError, match=r"--output: .* cannot be written \(Not a directory"):
        create(tmp_path / "notes.txt" / "store", INFO)


def test_writing_less_than_a_shard_and_odd_ids_are_our_bugs(tmp_path: Path) -> None:
    writer = create(tmp_path, INFO)
    with pytest.raises(ValueError, match="2 views are not all of it"):
        writer.write_shard(0, samples(range(2)))
    odd = [replace(sample, id="a.b") for sample in samples(range(3))]
    with pytest.raises(ValueError, match="letters, digits"):
        writer.write_shard(0, odd)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def set_info(**changes: object) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        file = root / "store.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no store": (lambda root: (root / "store.json").unlink(), "is no view store"),
    "no json": (lambda root: (root / "store.json").write_text("{"), "store.json: damaged"),
    "a list": (lambda root: (root / "store.json").write_text("[]"), "store.json: damaged"),
    "format": (set_info(format=9), "format 9 is not one"),
    "older format": (set_info(format=1), "format 1 is not one"),
    "count": (set_info(count="7"), "count, shard_size and size are"),
    "shard size": (set_info(shard_size=0), "count, shard_size and size are"),
    "encoding": (set_info(encoding="bmp"), "encoding is 'bmp'"),
    "more": (set_info(odd=1), "odd"),
    "shard gone": (lambda root: (root / "000001.tar").unlink(), "holds 4 of 7"),
    "shard cut": (lambda root: (root / "000001.tar").write_bytes(b"x" * 600), "damaged or cut"),
    "shard long": (
        lambda root: (root / "000001.tar").write_bytes((root / "000001.tar").read_bytes() * 2),
        r"000001\.tar: has not the \d+ bytes that its marker says",
    ),
    "marker gone": (lambda root: (root / "000001.json").unlink(), "holds 4 of 7"),
    "marker cut": (lambda root: (root / "000001.json").write_text('{"shard":'), "damaged"),
    "marker of another": (
        lambda root: (root / "000001.json").write_bytes((root / "000000.json").read_bytes()),
        "damaged: shard, tasks and bytes are",
    ),
    "marker's sizes": (
        lambda root: (root / "000001.json").write_text(
            (root / "000001.json").read_text().replace('"00004.0", ', '"00004.0", -')
        ),
        "damaged: the sizes of '00004.0'",
    ),
    "marker's names": (
        lambda root: (root / "000001.json").write_text(
            (root / "000001.json").read_text().replace('"00004.0"', '"00004"')
        ),
        r"000001\.tar: 00004 stands where ID\.K should",
    ),
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
    writer = create(tmp_path, replace(INFO, count=2))
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
    items = [Sample(id="a", k=k, pixels=pixels(0), metadata={}) for k in (0, "up")]  # type: ignore[arg-type]
    create(tmp_path, replace(INFO, count=1)).write_shard(0, items)
    path = tmp_path / "000000.tar"
    path.write_bytes(path.read_bytes().replace(b'"size": [9, 9]', b'"size": [9, 8]'))
    assert verify(tmp_path) == [f"{path}:a.up.webp: 9 x 9 pixels, not 8 x 9"]


@pytest.mark.parametrize("name", ["a.b.0", "a.-1", "a.down", "a", "a.1234567890"])
def test_verify_names_a_shard_with_names_of_another_kind(name: str, tmp_path: Path) -> None:
    make(tmp_path)
    members = [(f"{name}.webp", b""), (f"{name}.json", b"")] * 3
    (tmp_path / "000001.tar").write_bytes(b"".join(tar_blocks(members)))
    problems = verify(tmp_path)
    assert len(problems) == 1 and "stands where ID.K should" in problems[0]


def test_failed_views_are_missing_on_purpose(tmp_path: Path) -> None:
    lost = Failed(id="00004", k=0, seed=77, reason="black image")
    writer = create(tmp_path, INFO)
    fill(writer, [0, 2])
    writer.write_shard(1, [*samples([3]), lost, *samples([5])])
    assert writer.missing() == [] and verify(tmp_path) == []
    store = ViewStore(tmp_path)
    assert (len(store), store.num_failed, store.info.count) == (6, 1, 7)
    assert [store.metadata(i)["id"] for i in range(6)] == [f"{i:05d}" for i in (0, 1, 2, 3, 5, 6)]
    assert [Path(store.where(i).split(":")[0]).stem for i in range(6)] == [
        "000000", "000000", "000000", "000001", "000001", "000002",
    ]  # fmt: skip
    marker = read_marker(tmp_path, 1)
    assert marker is not None and marker.failed == (lost,) and marker.tasks == 3


def test_a_shard_of_failures_alone_and_one_without_views(tmp_path: Path) -> None:
    lost = [Failed(id=f"{i:05d}", k=0, seed=i, reason="NaN") for i in range(3)]
    writer = create(tmp_path, INFO)
    writer.write_shard(0, lost)
    fill(writer, [1, 2])
    assert verify(tmp_path) == []
    store = ViewStore(tmp_path)
    assert [store.metadata(i)["id"] for i in range(len(store))] == [
        "00003",
        "00004",
        "00005",
        "00006",
    ]


def test_a_marker_says_where_everything_lies(tmp_path: Path) -> None:
    """The same places as tarfile finds, without a look into the shard."""
    store = ViewStore(make(tmp_path))
    for item in range(7):
        with tarfile.open(store.where(item).split(":")[0]) as archive:
            image = archive.extractfile(f"{item:05d}.0.webp")
            text = archive.extractfile(f"{item:05d}.0.json")
            assert image is not None and store.encoded(item) == image.read()
            assert text is not None and store.metadata(item) == json.loads(text.read())


def test_a_reader_of_many_shards_opens_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, replace(INFO, count=60))
    opened = []
    real = open

    def counting(path: object, *args: object, **kwargs: object) -> object:
        opened.append(str(path))
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", counting)
    assert len(ViewStore(tmp_path)) == 60
    assert not [path for path in opened if path.endswith(".tar")]


def test_members_are_not_kept_in_memory(tmp_path: Path) -> None:
    """One at a time is asked for: each is written before the next is made."""
    info = replace(INFO, count=3)
    sizes = []

    def slowly() -> Iterator[Sample]:
        for sample in samples(range(3)):
            staged = [p.stat().st_size for p in tmp_path.glob(".ssgear-partial-*")]
            sizes.append(sum(staged))
            yield replace(sample, pixels=np.random.default_rng(0).integers(
                0, 256, (200, 200, 3), dtype=np.uint8
            ))  # fmt: skip

    create(tmp_path, info).write_shard(0, slowly())
    assert sizes[0] == 0 and sizes[1] > 90_000 and sizes[2] > 200_000


def test_writers_keep_out_of_each_others_shards(tmp_path: Path) -> None:
    one, two = create(tmp_path, INFO), create(tmp_path, INFO)
    with one.claim(1) as mine, two.claim(1) as other, two.claim(2) as free:
        assert mine is not None and other is None and free is not None
        (tmp_path / ".ssgear-partial-000001.tar-9-ab").write_bytes(b"being written")
        (tmp_path / ".ssgear-partial-000000.tar-9-ab").write_bytes(b"left by a killed process")
        create(tmp_path, INFO)
        left = sorted(path.name for path in tmp_path.glob(".ssgear-partial-*"))
        assert left == [".ssgear-partial-000001.tar-9-ab"]
    with two.claim(1) as claim:
        assert claim is not None
    assert not list(tmp_path.glob(".ssgear-claim-*"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard gone": (lambda root: (root / "000001.tar").unlink(), "000001.tar: cannot be read"),
    "shard cut": (
        lambda root: (root / "000001.tar").write_bytes((root / "000001.tar").read_bytes()[:900]),
        "000001.tar: damaged or cut",
    ),
    "marker gone": (lambda root: (root / "000001.json").unlink(), "000001.json: is missing"),
    "marker cut": (lambda root: (root / "000001.json").write_text("{"), "000001.json: damaged"),
    "padding": (
        lambda root: flip(root / "000001.tar", -1),
        "000001.tar: is not the file that was written",
    ),
    "another shard": (
        lambda root: (root / "000001.tar").write_bytes((root / "000000.tar").read_bytes()),
        "000001.tar: holds other images than its marker says",
    ),
    "header": (lambda root: flip(root / "000001.tar", 3), "000001.tar: damaged or cut"),
    "json": (
        lambda root: flip(root / "000001.tar", (root / "000001.tar").read_bytes().index(b'{"id"')),
        "000001.tar:00003.0.webp: ",
    ),
}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds_each_kind_of_damage(case: str, tmp_path: Path) -> None:
    damage, said = DAMAGE[case]
    damage(make(tmp_path))
    problems = verify(tmp_path)
    assert len(problems) == 1 and problems[0].startswith(f"{tmp_path}/{said}"), problems
