"""One worker, several, and parts: the same shards; workers that die, and commands that meet."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssgear.storage.lock import claimed
from ssgear.storage.view_store import ViewStore
from ssgear.views.jobs import pool as _pool
from tests.data.view_stores import folder

Ssgear = Callable[..., Any]


@pytest.fixture
def quick(run_ssgear: Ssgear, tmp_path: Path) -> Callable[..., Any]:
    """Runs the stand-in into a store of this test."""

    def run(store: str, *options: object, shard_size: int = 7) -> Any:
        words = ("--generator", "tests.views.stand_ins:Quick", "--shard-size", shard_size)
        return run_ssgear("generate", *words, "--output", tmp_path / store, *options)

    return run


def shards(store: Path) -> dict[str, bytes]:
    """Everything but what tells of time, and store.json."""
    return {path.name: path.read_bytes() for path in store.glob("0*")}


def test_one_worker_three_workers_and_pieces_make_the_same_shards(
    quick: Ssgear, tmp_path: Path
) -> None:
    images = ("--source-side", 16, "--data.path", folder(tmp_path / "images", 9), "--upscale")
    options = (*images, "--data.test-share", 0, "--views", 3, "--fail-every", 5)
    one, three = quick("one", *options), quick("three", *options, "--workers", 3)
    assert (one.status, three.status) == (0, 0), three.err
    pieces = [quick("pieces", *options, "--shard", f"{i}/3") for i in (3, 1, 2)]
    assert [each.status for each in pieces] == [0, 0, 0]
    whole = shards(tmp_path / "one")
    assert len(whole) == 8
    assert shards(tmp_path / "three") == whole and shards(tmp_path / "pieces") == whole
    store = ViewStore(tmp_path / "one")
    assert store.is_upscaled.sum() == 9 and len(store) == 36 - store.num_failed
    assert store.num_failed > 0 and f"{store.num_failed} of 27 views failed" in one.err
    for done in (one, three):
        assert done.err.count("ssgear: the stand-in is built\n") == 1
        assert done.err.count("ssgear: a batch was made\n") == 1
    left = {path.name for path in (tmp_path / "three").iterdir()} - set(whole)
    assert left == {"store.json", "metrics.jsonl", "preview.jpg"}


def test_what_first_views_told_is_the_same_in_any_order(quick: Ssgear, tmp_path: Path) -> None:
    images = ("--source-side", 16, "--data.path", folder(tmp_path / "images", 9))
    kind = ("--generator", "tests.views.stand_ins:Describing")
    options = (*kind, *images, "--data.test-share", 0, "--views", 4, "--fail-every", 5)
    assert quick("one", *options).status == 0
    assert quick("three", *options, "--workers", 3).status == 0
    for part in ("a", "b"):
        assert quick(part, *options, "--shard", f"{'ab'.index(part) + 1}/2").status == 0
    parts = (tmp_path / "a", tmp_path / "b")
    assert quick("merged", *kind, "--merge", *parts, shard_size=1000).status == 0
    whole = shards(tmp_path / "one")
    assert len(whole) == 12
    assert shards(tmp_path / "three") == whole and shards(tmp_path / "merged") == whole


def test_a_piece_makes_its_shards_and_leaves_the_others(quick: Ssgear, tmp_path: Path) -> None:
    done = quick("store", "--count", 30, "--shard", "2/2")
    assert done.status == 0
    assert sorted(shards(tmp_path / "store")) == [
        "000001.json", "000001.tar", "000003.json", "000003.tar",
    ]  # fmt: skip
    assert "all 14 images are there" in quick("store", "--count", 30, "--shard", "2/2").err
    idle = quick("store", "--count", 30, "--shard", "6/6")
    assert idle.status == 0 and "are there" not in idle.err
    assert "--shard 6/6 has nothing to make: the store has 5 shards, of --shard-size 7" in idle.err
    assert quick("store", "--count", 30).status == 0
    assert len(ViewStore(tmp_path / "store")) == 30


def test_a_worker_that_dies_costs_its_shard_and_nothing_else(quick: Ssgear, tmp_path: Path) -> None:
    quick("whole", "--count", 6)
    died = tmp_path / "died"
    done = quick("store", "--count", 6, "--workers", 2, "--die-once", died)
    assert done.status == 0 and died.exists()
    assert "a worker ended at shard 0 (killed by SIGKILL" in done.err
    assert shards(tmp_path / "store") == shards(tmp_path / "whole")
    assert not list((tmp_path / "store").glob(".ssgear*"))


def test_a_worker_that_is_silent_for_long_is_named(
    quick: Ssgear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "QUIET_S", 0.6)
    monkeypatch.setattr(_pool, "_QUIETER", 0)
    monkeypatch.setattr(_pool, "LISTEN_S", 0.1)
    done = quick("store", "--count", 7, "--workers", 2, "--pause-at", "000000004@2.5")
    assert done.status == 0, done.err
    found = re.search(
        r"worker process (\d+) has said nothing for 0 minutes, at shard 0, after 4 of its views; "
        r".* kill -9 (\d+), and another one begins",
        done.err,
    )
    assert found and found[1] == found[2], done.err
    assert done.err.count("at shard 0, after 4 of") == 1


def test_a_shard_that_no_worker_survives_is_named(
    quick: Ssgear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "ATTEMPTS", 2)
    done = quick("store", "--count", 6, "--workers", 2, "--die-at", "000000004")
    assert done.status == 2 and "Traceback" not in done.err
    assert "--generator: 2 workers ended at shard 0, the last one so: killed by" in done.complaint
    left = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert left == ["preview.jpg", "store.json"]


def test_mistakes_and_bugs_within_a_worker(quick: Ssgear, tmp_path: Path) -> None:
    done = quick("store", "--count", 6, "--workers", 2, "--flavour", "none")
    assert (done.status, done.err) == (2, "ssgear: --flavour: none is not possible; use plain\n")
    assert not (tmp_path / "store").exists()
    done = quick("store", "--count", 6, "--workers", 2, "--raise-at", "000000004")
    assert done.status == 2 and "Traceback" in done.err, "a bug shows where it is"
    assert done.complaint == "ssgear: --generator: TypeError: 000000004 is odd"


def test_a_command_waits_for_the_shards_of_another(quick: Ssgear, tmp_path: Path) -> None:
    quick("store", "--count", 21, "--shard", "1/3")
    held, freed = threading.Event(), threading.Event()

    def hold() -> None:
        with claimed(tmp_path / "store" / ".ssgear-claim-000001"):
            held.set()
            freed.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(20)
    threading.Timer(0.3, freed.set).start()
    began = time.monotonic()
    done = quick("store", "--count", 21)
    other.join()
    assert done.status == 0 and time.monotonic() - began > 0.3
    assert "another process is making 1 shard; waiting for it" in done.err
    assert len(ViewStore(tmp_path / "store")) == 21


def test_metrics_and_preview_tell_of_each_shard(quick: Ssgear, tmp_path: Path) -> None:
    quick("store", "--count", 20, "--fail-every", 4)
    lines = [json.loads(x) for x in (tmp_path / "store" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["shard"]) for line in lines] == [("shard", i) for i in range(3)]
    assert [line["images"] + line["failed"] for line in lines] == [7, 7, 6]
    for line in lines:
        assert line["bytes"] == (tmp_path / "store" / f"{line['shard']:06d}.tar").stat().st_size
        assert line["images_per_second"] > 0 and "stand-in" in line["stages"]
    with Image.open(tmp_path / "store" / "preview.jpg") as preview:
        assert preview.size[0] > 128


def test_other_hardware_is_told(quick: Ssgear, tmp_path: Path) -> None:
    first = quick("store", "--count", 14, "--shard", "1/2")
    lines = tmp_path / "store" / "metrics.jsonl"
    assert json.loads(lines.read_text())["hardware"].startswith("a CPU with ")
    assert "last bits" not in first.err
    lines.write_text(lines.read_text().replace("a CPU with", "a TPU with"))
    assert "was made on a TPU with" in quick("store", "--count", 14).err
    again = quick("store", "--count", 21)
    assert again.status == 0 and "last bits" not in again.err


def test_a_store_of_failures_alone_is_an_error(quick: Ssgear, tmp_path: Path) -> None:
    done = quick("store", "--count", 5, "--fail-every", 1)
    assert done.status == 2
    assert done.complaint.startswith("ssgear: --generator: 5 of 5 views failed and are not stored")
    assert "5 x seed 0 of 1" in done.complaint


def test_images_beyond_all_memory_are_a_line(quick: Ssgear, tmp_path: Path) -> None:
    images = ("--data.path", folder(tmp_path / "images", 6), "--data.test-share", 0)
    done = quick("store", "--source-side", 10**7, *images)
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert "--generator: there is no memory for such images" in done.complaint


def test_sources_that_cannot_be_read_are_named_and_skipped(quick: Ssgear, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 6)
    (images / "a" / "02.png").write_bytes(b"no image")
    data = ("--data.path", images, "--data.test-share", 0, "--data.max-bad-share", 0.5)
    done = quick("store", "--source-side", 16, *data)
    assert done.status == 0 and len(ViewStore(tmp_path / "store")) == 5
    assert "a/02.png cannot be read and gets no views: not an image that can be read" in done.err


def test_nested_settings_and_other_images_are_refused_by_name(
    quick: Ssgear, tmp_path: Path
) -> None:
    images = folder(tmp_path / "images", 6)
    data = ("--source-side", 16, "--data.path", images, "--data.test-share", 0)
    assert quick("store", *data).status == 0
    done = quick("store", *data, "--flavour", "other")
    assert done.status == 2 and "unet.flavour (plain, now other)" in done.complaint
    done = quick("store", *data, "--side", 16)
    assert "model.side (12, now 16)" in done.complaint and "size (12, now 16)" in done.complaint
    (images / "a" / "04.png").rename(images / "a" / "03.png")
    done = quick("store", *data)
    assert done.status == 2 and "images_blake2b (" in done.complaint
    done = quick("store", "--count", 6)
    assert done.status == 2 and "source (folder, now None)" in done.complaint
