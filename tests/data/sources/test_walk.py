"""A listing that is remembered is the one that a new look would give."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data.sources import listing as listings
from ssgear.data.sources import walk as walks
from ssgear.data.sources.listing import Listing, list_files, list_folder
from ssgear.data.sources.open import open_source
from ssgear.errors import DataError
from ssgear.storage import cache
from tests.data.pictures import age, pack, write, write_shard

REAL_WORTH = listings.WORTH
FILES = ["a/1.png", "a/2.png", "b/x/3.png", "b/notes.txt", "c/4.png"]


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "WORTH", 1)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that are listed anew."""
    found: list[str] = []
    real = walks._list

    def listed(root: Path, folder: str, *lists: list[str]) -> bool:
        found.append(folder)
        return real(root, folder, *lists)

    monkeypatch.setattr(walks, "_list", listed)
    return found


def contents(listing: Listing) -> tuple[list[str], list[str], list[int], list[bytes]]:
    reader = listing.reader()
    data = [reader.encoded(row) for row in range(len(reader))]
    return list(listing.images), list(listing.others), listing.digests.tolist(), data


def test_a_folder_is_listed_once(tmp_path: Path, walked: list[str]) -> None:
    path = age(write(tmp_path / "p", FILES))
    first = list_folder(path)
    assert len(walked) == 5
    second = list_folder(path)
    assert len(walked) == 5 and contents(first) == contents(second)
    list_folder(path, remember=False)
    assert len(walked) == 10


@pytest.mark.parametrize("last_first", [False, True])
def test_a_link_to_a_folder_never_takes_its_files(
    last_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever order a file system lists in."""
    root = write(tmp_path / "p", ["a/x/1.png", "b/2.png", "c/3.png"])
    write(tmp_path / "far", ["y/4.png"])
    for link, target in (("a/b", "b"), ("c/a", "a"), ("b/far", "../far"), ("c/far", "../far")):
        (root / link).symlink_to(root / target)
    real = os.scandir

    @contextmanager
    def scandir(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with real(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=last_first))

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(list_folder(root, remember=False).images)
    assert found == ["a/x/1.png", "b/2.png", "b/far/y/4.png", "c/3.png"]


def test_twelve_thousand_files(tmp_path: Path, walked: list[str]) -> None:
    """Enough for the real limit; what is kept of a file are its name's bytes and some numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listings, "WORTH", REAL_WORTH)
        path = write(tmp_path / "p", ["n0/x/0.png"], side=2)
        for number in range(1, 12_000):
            folder = path / f"n{number % 30}" / f"sub{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            os.link(path / "n0/x/0.png", folder / f"{number}.png")
        age(path)
        config = DataConfig(path=path)
        first, second = (open_source(config, "train") for _ in range(2))
    assert len(walked) == 1 + 30 + 30 + 1, "a second time nothing is listed"
    assert len(first) == 12_000 - 30 * 40 and first.classes == second.classes
    assert torch.equal(first.index, second.index)
    assert first.labels is not None and second.labels is not None
    assert torch.equal(first.labels, second.labels)
    names = sum(len(name) for name in second.reader.names)  # type: ignore[attr-defined]
    assert len(pickle.dumps(second)) < names + 12_000 * 5 * 8


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file comes": lambda root: write(root, ["b/x/new.png"]),
    "a file goes": lambda root: (root / "b/x/3.png").unlink(),
    "a file is renamed": lambda root: (root / "c/4.png").rename(root / "c/5.png"),
    "a folder comes": lambda root: write(root, ["d/e/6.png"]),
    "a folder goes": lambda root: shutil.rmtree(root / "b"),
    "a folder is replaced": lambda root: (
        shutil.rmtree(root / "b"), write(root, ["b/x/9.png"]), age(root)
    ),
    "a linked folder changes": lambda root: write(root.parent, ["linked/new.png"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "p", FILES)
    write(tmp_path / "linked", ["7.png"])
    (path / "link").symlink_to(tmp_path / "linked")
    age(tmp_path)
    os.utime(path, (5000, 5000))
    list_folder(path)
    assert cache.load("folder", path) is not None
    CHANGES[change](path)
    assert contents(list_folder(path)) == contents(list_folder(path, remember=False))


def test_what_could_change_unseen_is_not_remembered(tmp_path: Path) -> None:
    path = write(tmp_path / "p", FILES)
    list_folder(path)
    assert cache.load("folder", path) is None, "it changed just now, and may again"
    (path / "later.png").symlink_to(tmp_path / "nothing yet.png")
    list_folder(age(path))
    assert cache.load("folder", path) is None, "the link may lead to something one day"
    (path / "later.png").unlink()
    list_folder(age(path))
    assert cache.load("folder", path) is not None


def test_few_files_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "WORTH", 6)
    list_folder(age(write(tmp_path / "p", FILES)))
    assert not cache.folder().exists()


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    path = age(write(tmp_path / "p", FILES))
    before = sorted(path.rglob("*"))
    list_folder(path)
    assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("damage", [b"", b"ssgear cache 1\n" + bytes(90)])
def test_a_damaged_memory_is_made_again(tmp_path: Path, damage: bytes, walked: list[str]) -> None:
    path = age(write(tmp_path / "p", FILES))
    first = contents(list_folder(path))
    next(cache.folder().glob("folder-*")).write_bytes(damage)
    assert contents(list_folder(path)) == first and len(walked) == 10
    assert contents(list_folder(path)) == first and len(walked) == 10


def test_a_tar_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write(tmp_path / "p", FILES), tmp_path / "p.tar", "p")
    os.utime(path, (1000, 1000))
    first = contents(list_files(path, "--data.path"))
    with monkeypatch.context() as patch:
        patch.setattr(listings, "tar_members", None)
        again = list_files(path, "--data.path")
        assert contents(again) == first and again.text("p/b/notes.txt").startswith("�PNG")
    write_shard(path, {"x.png": b"1"})
    assert contents(list_files(path, "--data.path"))[0] == ["x.png"]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match="no whole tar file"):
        list_files(path, "--data.path")
