"""Several stores become one: shards over whole, damage and differences refused before a write."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssgear.errors import ConfigError, DataError
from ssgear.storage.store_check import verify
from ssgear.storage.store_marker import Failed
from ssgear.storage.store_merge import merge
from ssgear.storage.store_writer import Sample, create
from ssgear.storage.view_store import StoreInfo, ViewStore

INFO = StoreInfo(
    count=9, shard_size=2, encoding="webp", size=5, settings={"seed": 1, "a": {"b": 2}}
)
Ssgear = Callable[..., Any]


def entry(number: int, salt: int = 0) -> Sample | Failed:
    if number == 3:
        return Failed(id="3", k=0, seed=3, reason="dark")
    pixels = np.random.default_rng((number, salt)).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Sample(id=str(number), pixels=pixels, metadata={})


def store(root: Path, shards: Sequence[int], info: StoreInfo = INFO, salt: int = 0) -> Path:
    writer = create(root, info)
    for shard in shards:
        writer.write_shard(shard, (entry(item, salt) for item in info.items_of(shard)))
    return root


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("0*")}


@pytest.mark.parametrize("links", [True, False])
def test_parts_become_the_whole(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store(tmp_path / "whole", range(5))
    parts = [store(tmp_path / "a", (0, 3)), store(tmp_path / "b", (1, 3, 4))]
    if not links:

        def refused(*_: object) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr(os, "link", refused)
    heard: list[int] = []
    first = merge(parts, tmp_path / "out", heard.append)
    assert (first.taken, first.missing, heard) == (4, (2,), [1] * 5)
    second = merge([store(tmp_path / "c", (2, 3))], tmp_path / "out")
    assert (second.taken, second.missing) == (1, ())
    assert shards(tmp_path / "out") == shards(whole)
    assert verify(tmp_path / "out") == [] and len(ViewStore(tmp_path / "out")) == 8
    assert (tmp_path / "out/store.json").read_text() == (whole / "store.json").read_text()
    assert not list((tmp_path / "out").glob(".ssgear*"))
    inode = (tmp_path / "out/000000.tar").stat().st_ino
    assert (inode == (tmp_path / "a/000000.tar").stat().st_ino) is links
    assert merge([*parts, whole], tmp_path / "out").taken == 0
    (tmp_path / "out/000000.json").unlink()  # the tar, the same file by its link, is there
    assert merge(parts, tmp_path / "out").taken == 1
    assert shards(tmp_path / "out") == shards(whole)
    assert not list((tmp_path / "out").glob(".ssgear*"))


def test_the_longest_version_of_a_shard_counts(tmp_path: Path) -> None:
    short = store(tmp_path / "short", range(3), replace(INFO, count=5))
    long = store(tmp_path / "long", range(1, 5))
    for order in ([short, long], [long, short]):
        root = tmp_path / f"out-{order[0].name}"
        assert merge(order, root).missing == ()
        assert len(ViewStore(root)) == 8
    root = tmp_path / "grown"
    assert merge([short], root).missing == ()
    assert merge([long], root).taken == 3 and shards(root) == shards(tmp_path / "out-long")
    assert merge([short], root).taken == 0 and len(ViewStore(root)) == 8


def test_other_settings_are_named(tmp_path: Path) -> None:
    one = store(tmp_path / "one", (0,))
    other = store(tmp_path / "other", (1,), replace(INFO, settings={"seed": 1, "a": {"b": 3}}))
    with pytest.raises(ConfigError, match=r"--merge: .*other was .* than .*one: a\.b \(2, now 3\)"):
        merge([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"one was made with other .* than .*other: a\.b \(3"):
        merge([other], one)
    with pytest.raises(DataError, match=r"--merge: .*none: is no view store"):
        merge([one, tmp_path / "none"], tmp_path / "out")
    assert shards(one).keys() == {"000000.tar", "000000.json"}


def test_a_shard_that_two_have_must_be_equal(tmp_path: Path) -> None:
    one, other = store(tmp_path / "one", (0, 1)), store(tmp_path / "other", (1, 2), salt=1)
    with pytest.raises(DataError, match=r"one/000001\.tar and .*other/000001\.tar differ"):
        merge([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"one/000001\.tar and .*other/000001\.tar differ"):
        merge([one], other)
    assert len(shards(other)) == 4
    (other / "000001.json").unlink()
    assert merge([one, other], tmp_path / "out").missing == (3, 4)


def test_damage_is_refused(tmp_path: Path) -> None:
    one = store(tmp_path / "one", range(5))
    path = one / "000002.tar"
    before = path.read_bytes()
    path.write_bytes(before[:600] + bytes([before[600] ^ 1]) + before[601:])
    with pytest.raises(DataError, match=r"000002\.tar is not the file that was written"):
        merge([one], tmp_path / "out")
    assert shards(tmp_path / "out").keys() == {
        "000000.tar", "000000.json", "000001.tar", "000001.json",
    }  # fmt: skip
    path.write_bytes(before[:-1])
    with pytest.raises(DataError, match=r"000002\.tar has not the \d+ bytes"):
        merge([one], tmp_path / "out")
    (one / "000002.json").write_text("{")
    with pytest.raises(DataError, match=r"000002\.json: damaged"):
        merge([one], tmp_path / "out")
    (one / "000002.json").unlink()
    assert merge([one], tmp_path / "out").missing == (2,)


def test_the_command_says_what_is_missing(run_ssgear: Ssgear, tmp_path: Path) -> None:
    words = ("--generator", "tests.views.stand_ins:Quick", "--count", 20, "--shard-size", 7)
    for i in (1, 3):
        made = run_ssgear("generate", *words, "--output", tmp_path / f"p{i}", "--shard", f"{i}/3")
        assert made.status == 0
    out, parts = tmp_path / "out", (tmp_path / "p1", tmp_path / "p3")
    done = run_ssgear("generate", "--merge", *parts, "--output", out)
    assert (done.status, done.out.splitlines()[-1]) == (0, str(out))
    assert "ssgear: 2 of 3 shards were taken\n" in done.err
    assert "ssgear: 7 of 20 views are missing, shards 1; the command" in done.err
    assert run_ssgear("generate", *words, "--output", out).status == 0
    assert len(ViewStore(out)) == 20 and run_ssgear("generate", "--verify", out).status == 0
    for words, said in (
        (("--merge", *parts), "--output: name the directory of the store"),
        (("--merge", "--output", out), "--merge: a value is missing; it takes a list of"),
        (("--merge", out, "--verify", out), "--verify: and --merge is not possible; use one of"),
    ):
        done = run_ssgear("generate", *words)
        assert done.status == 2 and done.err.startswith(f"ssgear: {said}"), done.err
        assert done.err.count("\n") == 1
