"""What is remembered comes back as it was, or not at all; it is private, and never an error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ssgear.storage import cache

ARRAYS = {
    "rows": np.arange(21, dtype=np.int64).reshape(7, 3),
    "none": np.empty((0, 2), dtype=np.int32),
    "bytes": np.frombuffer(b"odd", np.uint8),
}


def entry_file() -> Path:
    return next(file for file in cache.folder().iterdir() if file.suffix != ".lock")


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert cache.load("kind", tmp_path) is None
    cache.save("kind", tmp_path, {"a": [1, "größe"]}, ARRAYS)
    entry = cache.load("kind", tmp_path)
    assert entry is not None and entry.info == {"a": [1, "größe"]}
    assert entry.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert entry.arrays[name].dtype == array.dtype
        assert np.array_equal(entry.arrays[name], array)
    assert cache.load("other", tmp_path) is None
    assert cache.load("kind", tmp_path / "x") is None


def test_a_link_is_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cache.save("kind", tmp_path / "link", {"a": 1}, {})
    assert cache.load("kind", tmp_path / "real") is not None


def test_the_place_follows_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.folder() == tmp_path / ".cache" / "ssgear"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder() == tmp_path / "x" / "ssgear"


def test_entries_are_their_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with cache.locked("kind", tmp_path):
            cache.save("kind", tmp_path, {}, ARRAYS)
    finally:
        os.umask(mask)
    assert cache.folder().stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in cache.folder().iterdir()] == [0o600] * 2


@pytest.mark.parametrize("place", [0, 20, 60, 200, -1])
def test_a_damaged_entry_is_none(tmp_path: Path, place: int) -> None:
    cache.save("kind", tmp_path, {"a": 1}, ARRAYS)
    data = bytearray(entry_file().read_bytes())
    data[place] ^= 1
    entry_file().write_bytes(data)
    assert cache.load("kind", tmp_path) is None
    cache.save("kind", tmp_path, {"a": 1}, ARRAYS)
    assert cache.load("kind", tmp_path) is not None


@pytest.mark.parametrize("length", [0, 10, 47, 60, 300])
def test_a_cut_entry_is_none(tmp_path: Path, length: int) -> None:
    cache.save("kind", tmp_path, {"a": 1}, ARRAYS)
    entry_file().write_bytes(entry_file().read_bytes()[:length])
    assert cache.load("kind", tmp_path) is None


def test_where_nothing_can_be_written_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.save("kind", tmp_path, {}, ARRAYS)
    with cache.locked("kind", tmp_path):
        assert cache.load("kind", tmp_path) is None


def test_somebody_elses_entry_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save("kind", tmp_path, {}, ARRAYS)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.load("kind", tmp_path) is None


def test_entries_that_nobody_uses_go(tmp_path: Path) -> None:
    for name in ("old", "used", "new"):
        cache.save("kind", tmp_path / name, {}, {})
        if name != "new":
            file = max(cache.folder().iterdir(), key=lambda file: file.stat().st_mtime_ns)
            os.utime(file, (time.time() - 200 * 86400,) * 2)
        if name == "used":
            assert cache.load("kind", tmp_path / name) is not None
    cache.save("kind", tmp_path / "last", {}, {})
    found = [cache.load("kind", tmp_path / name) for name in ("old", "used", "new", "last")]
    assert [entry is not None for entry in found] == [False, True, True, True]


def test_young_and_absent_files_have_no_stamp(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert cache.stamp_of(file) is None
    file.write_bytes(b"12345")
    assert cache.stamp_of(file) is None, "it may change again within the same second"
    os.utime(file, (1000, 1000))
    assert cache.stamp_of(file) == [5, 1000 * 10**9, file.stat().st_ino]


def test_of_two_processes_one_waits(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from ssgear.storage import cache\n"
        "with cache.locked('kind', pathlib.Path(sys.argv[1])): print('in', flush=True)"
    )
    with cache.locked("kind", tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1.5)
    assert other.communicate(timeout=30)[0] == "in\n"
