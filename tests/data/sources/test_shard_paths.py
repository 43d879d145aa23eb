"""Folders and patterns of shards, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssgear.data.sources.shard_paths import holds_shards, is_pattern, shard_paths
from ssgear.errors import DataError


def touch(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("t-{08..10}.tar", ["t-08.tar", "t-09.tar", "t-10.tar"]),
        ("{t,v}-08.tar", ["t-08.tar", "v-08.tar"]),
        ("{t,v}-{08..09}.tar", ["t-08.tar", "t-09.tar", "v-08.tar", "v-09.tar"]),
        ("t-*.tar", ["t-08.tar", "t-09.tar", "t-10.tar"]),
        ("?-1[01].tar", ["t-10.tar"]),
        ("{v,t}-0*.tar", ["v-08.tar", "v-09.tar", "t-08.tar", "t-09.tar"]),
        ("t-08.tar", ["t-08.tar"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, ["t-08.tar", "t-09.tar", "t-10.tar", "v-08.tar", "v-09.tar", "t-08.txt"])
    found = shard_paths(tmp_path / pattern, "--data.path")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1.tar", "0.TAR", "readme.md", ".2.tar"], ["0.TAR", "1.tar"]),
        (["train/0.tar", "train/1.tar", "val/0.tar"], ["train/0.tar", "train/1.tar", "val/0.tar"]),
        (["x.jpg", "1.tar"], None),
        (["cats/1.tar"], None),
        (["readme.md"], None),
        (["train/1.jpg", "train/1.tar"], None),
        (["images.tar", "train/cat/1.jpg", "val/cat/2.jpg"], None),
        (["train.tar", "train/cat/1.jpg", "train/2.tar"], None),
        (["0.tar", "notes/a.txt"], ["0.tar"]),
    ],
)
def test_folders(tmp_path: Path, names: list[str], expected: list[str] | None) -> None:
    touch(tmp_path, names)
    assert holds_shards(tmp_path) is (expected is not None)
    if expected:
        found = shard_paths(tmp_path, "--data.path")
        assert [path.relative_to(tmp_path).as_posix() for path in found] == expected


def test_what_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, ["0.tar", "2.tar"])
    with pytest.raises(DataError, match=r"1\.tar does not exist \(1 of 3 shards are missing\)"):
        shard_paths(tmp_path / "{0..2}.tar", "--data.path")
    with pytest.raises(DataError, match=r"--data\.path: .*x\*\.tar names no tar file"):
        shard_paths(tmp_path / "x*.tar", "--data.path")
    with pytest.raises(DataError, match=r"\{5\.\.2\} runs from 5 to 2"):
        shard_paths(tmp_path / "{5..2}.tar", "--data.path")


def test_a_name_with_a_brace_is_a_name(tmp_path: Path) -> None:
    touch(tmp_path, ["a{0..1}[x].tar"])
    assert not is_pattern(tmp_path / "a{0..1}[x].tar")
    assert shard_paths(tmp_path / "a{0..1}[x].tar", "--data.path") == [tmp_path / "a{0..1}[x].tar"]
