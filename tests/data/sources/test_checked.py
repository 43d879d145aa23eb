"""Images are read once, and again as soon as anything about them may be another."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssgear.config.schema import DataConfig
from ssgear.data.sources import checked, readers, source
from ssgear.data.sources.loading import scan
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import Source
from ssgear.errors import DataError
from ssgear.storage import cache
from tests.data.pictures import age, pack, picture, write_classes, write_shard

COUNTS = {"a": 11, "b/deep": 8}


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "WORTH", 1)


@contextmanager
def counted() -> Iterator[Counter[bytes]]:
    """Count the files that are read whole."""
    real, read = readers.checked_size, Counter[bytes]()

    def counting(data: bytes) -> tuple[int, int]:
        read[data] += 1
        return real(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "checked_size", counting)
        yield read


def checked_set(path: Path, **options: object) -> tuple[Source, int]:
    """Scan a set; return what is good and how many images were read."""
    config = DataConfig(path=path, test_share=0, max_bad_share=0.5, **options)  # type: ignore[arg-type]
    with counted() as read:
        good, sizes = scan(open_source(config, "train"), config)
    assert (sizes > 0).all() and len(sizes) == len(good)
    return good, sum(read.values())


def tree(tmp_path: Path, kind: str) -> Path:
    folder = write_classes(tmp_path / "p", COUNTS)
    if kind == "folder":
        return age(folder)
    if kind == "tar":
        pack(folder, tmp_path / "in.tar", "p")
        os.utime(tmp_path / "in.tar", (1000, 1000))
        return tmp_path / "in.tar"
    for number, name in enumerate(COUNTS):
        files = sorted((folder / name).iterdir())
        write_shard(
            tmp_path / "shards" / f"{number}.tar",
            {f"{place}.png": file.read_bytes() for place, file in enumerate(files)},
        )
    return age(tmp_path / "shards")


@pytest.mark.parametrize("kind", ["folder", "tar", "shards"])
def test_the_second_scan_reads_nothing(tmp_path: Path, kind: str) -> None:
    path = tree(tmp_path, kind)
    first, read = checked_set(path)
    assert read == 19
    second, read = checked_set(path)
    assert read == 0
    assert first.sizes is not None and second.sizes is not None
    assert first.sizes.tolist() == second.sizes.tolist() == [[8, 8]] * 19
    assert checked_set(path, cache=False)[1] == 19


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tree(tmp_path, "folder")
    checked_set(path)
    bad = path / "a" / "3.png"
    data = bad.read_bytes()
    # size and time, time alone, size alone
    bad.write_bytes(b"")
    os.utime(path / "a" / "4.png", ns=(0, (path / "a" / "4.png").stat().st_mtime_ns + 1))
    longer, then = path / "a" / "5.png", (path / "a" / "5.png").stat().st_mtime_ns
    longer.write_bytes(picture(5) + b"x")
    os.utime(longer, ns=(then, then))
    good, read = checked_set(path)
    assert read == 3 and [file.where for file in good.bad] == [str(bad)]
    assert checked_set(path)[1] == 1, "what is bad is read at every start"
    bad.write_bytes(data)
    assert checked_set(path)[0].bad == ()


def test_a_young_file_is_read_at_every_start(tmp_path: Path) -> None:
    """It may change within the same second and keep its size: its time would not tell."""
    path = tree(tmp_path, "folder")
    (path / "a" / "3.png").write_bytes(picture(77))
    os.utime(path / "a")
    assert [checked_set(path)[1] for _ in range(3)] == [19, 1, 1]


def test_an_archive_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tree(tmp_path, "shards")
    checked_set(path)
    shard = path / "1.tar"
    data = bytearray(shard.read_bytes())
    data[600:640] = bytes(40)
    shard.write_bytes(data)
    good, read = checked_set(path)
    assert read == 8, "the images of this shard"
    assert [file.where for file in good.bad] == [f"{shard}:0.png"]


def test_equal_members_of_equal_shards_are_told_apart(tmp_path: Path) -> None:
    """Name, place, size and time agree; only the shard's own name differs."""
    write_shard(tmp_path / "s" / "0.tar", {"1.png": picture(1), "2.png": picture(2)})
    shutil.copy(tmp_path / "s" / "0.tar", tmp_path / "s" / "1.tar")
    path = age(tmp_path / "s")
    assert [checked_set(path)[1] for _ in range(2)] == [4, 0]
    config = DataConfig(path=path, test_share=0)
    source = open_source(config, "train")
    stamps = source.reader.stamps(source.index.numpy())  # type: ignore[attr-defined]
    assert len(set(stamps.tolist())) == 4


def test_names_that_move_below_another_folder(tmp_path: Path) -> None:
    path = tree(tmp_path, "folder")
    (tmp_path / "q").mkdir()
    path = path.rename(tmp_path / "q" / "p")
    checked_set(tmp_path / "q")
    (tmp_path / "q" / "other.png").write_bytes(picture(40))
    assert checked_set(tmp_path / "q")[1] == 20


def test_splits_are_remembered_together(tmp_path: Path) -> None:
    path = age(write_classes(tmp_path, {"train/a": 4, "train/b": 4, "test/a": 3, "test/b": 2}))
    config = DataConfig(path=path)
    for expected in (13, 0):
        with counted() as read:
            for part in ("train", "test"):
                scan(open_source(config, part), config)  # type: ignore[arg-type]
        assert sum(read.values()) == expected


@pytest.mark.parametrize("damage", [b"", b"ssgear cache 1\n", b"x" * 500])
def test_a_damaged_memory_is_made_again(
    tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tree(tmp_path, "folder")
    checked_set(path)
    for file in cache.folder().glob("checked-*"):
        file.write_bytes(damage)
    assert [checked_set(path)[1] for _ in range(2)] == [19, 0]
    assert capfd.readouterr() == ("", "")


def test_another_pillow_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree(tmp_path, "folder")
    checked_set(path)
    monkeypatch.setattr(checked.PIL, "__version__", "0.1")
    assert checked_set(path)[1] == 19


def test_what_was_read_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree(tmp_path, "folder")
    real, calls = readers.checked_size, iter(range(19))

    def interrupted(data: bytes) -> tuple[int, int]:
        if next(calls) == 12:
            raise KeyboardInterrupt
        return real(data)

    with monkeypatch.context() as patch:
        patch.setattr(readers, "checked_size", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checked_set(path, workers=0)
    assert checked_set(path)[1] == 7


def test_too_many_bad_files_do_not_lose_the_good_ones(tmp_path: Path) -> None:
    path = tree(tmp_path, "folder")
    (path / "a" / "3.png").write_bytes(b"")
    config = DataConfig(path=path, test_share=0)
    with pytest.raises(DataError, match="1 of 19 files"):
        scan(open_source(config, "train"), config)
    assert checked_set(path)[1] == 1


def test_the_common_side_of_many_images_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_FEW", 2)
    path = tree(tmp_path, "folder")
    read: list[int] = []
    real = readers.Reader.stored_size

    def stored_size(self: readers.Reader, index: int) -> tuple[int, int]:
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(readers.Reader, "stored_size", stored_size)
    config = DataConfig(path=path, test_share=0)
    assert open_source(config, "train").native_size == 8 and len(read) == 19
    checked_set(path)
    read.clear()
    assert open_source(config, "train").native_size == 8 and read == [0, 1]
    (path / "b" / "deep" / "7.png").write_bytes(picture(side=9))
    assert open_source(config, "train").native_size is None and read == [0, 1] * 2 + [18]
    without = DataConfig(path=path, test_share=0, cache=False)
    assert open_source(without, "train").native_size is None and len(read) == 5 + 19


def test_of_two_that_start_together_one_reads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tree(tmp_path, "folder")
    config = DataConfig(path=path, test_share=0)
    with counted() as read, ThreadPoolExecutor(3) as pool:
        with cache.locked("checked", path):
            scans = [pool.submit(scan, open_source(config, "train"), config) for _ in range(3)]
            deadline = time.monotonic() + 60
            told = ""
            while told.count("waiting for another") < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
                told += capfd.readouterr().err
        assert [len(each.result()[0]) for each in scans] == [19] * 3
    assert sum(read.values()) == 19
    assert told == f"ssgear: waiting for another process that checks {path}\n" * 3


def test_old_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree(tmp_path, "folder")
    checked_set(path)
    shutil.rmtree(path / "b")
    later = checked.time.time() + 61 * 86400
    monkeypatch.setattr(checked.time, "time", lambda: later)
    os.utime(path / "a" / "3.png", (2000, 2000))
    checked_set(path)
    entry = cache.load("checked", path)
    assert entry is not None and len(entry.arrays["stamps"]) == 11
