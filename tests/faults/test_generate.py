"""Kills, signals and full disks while a store is made: what is finished later is the same store."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssgear.generate import main
from ssgear.storage.view_store import ViewStore

Ssgear = Callable[..., Any]
OPTIONS = [
    "--generator", "tests.views.stand_ins:Quick", "--count", "150", "--shard-size", "6",
    "--seconds", "0.004",
]  # fmt: skip
PATIENCE_S = 240
"""Processes that import torch beside others take long."""


def started(store: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ssgear.generate", *OPTIONS, "--output", str(store), *options]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("0*")}


def num_markers(store: Path) -> int:
    return len(list(store.glob("0*.json")))


def leftovers(store: Path) -> list[str]:
    return [path.name for path in store.glob(".*")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Shards of an undisturbed run."""
    store = tmp_path_factory.mktemp("whole") / "store"
    assert main([*OPTIONS, "--output", str(store)]) == 0
    return shards(store)


# images for so many kills, so that the last one comes before the end
KILLS = [(3, 150), pytest.param(20, 1500, marks=pytest.mark.slow)]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kills", "images"), KILLS)
def test_killed_at_random_moments_and_finished(
    kills: int, images: int, run_ssgear: Ssgear, tmp_path: Path
) -> None:
    store, moments, count = tmp_path / "store", random.Random(kills), ("--count", str(images))
    assert main([*OPTIONS, *count, "--output", str(tmp_path / "whole")]) == 0
    whole = shards(tmp_path / "whole")
    for number in range(kills):
        before = num_markers(store)
        process = started(store, *count)
        if number:  # the first one may die before there is a store
            wait_for(process, lambda: num_markers(store) > before)  # noqa: B023
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.communicate()
        for marker in store.glob("0*.json"):  # what has a marker is done
            shard = marker.with_suffix(".tar")
            assert (marker.read_bytes(), shard.read_bytes()) == (
                whole[marker.name], whole[shard.name],
            )  # fmt: skip
    assert num_markers(store) < len(whole) / 2, "it was killed too late to be a test"
    assert run_ssgear("generate", *OPTIONS, *count, "--output", store).status == 0
    assert shards(store) == whole and leftovers(store) == []
    assert run_ssgear("generate", "--verify", store).status == 0


WORKERS = [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)]
SIGNALS = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_whole_shards_only(
    number: signal.Signals,
    workers: tuple[str, ...],
    whole: dict[str, bytes],
    run_ssgear: Ssgear,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    process = started(store, *workers)
    wait_for(process, lambda: num_markers(store) >= 2)
    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert told.splitlines()[-2:] == [
        "ssgear: stops after this batch; once more: at once",
        "ssgear: interrupted; the same command finishes what is missing",
    ]
    assert leftovers(store) == [] and 2 <= num_markers(store) < 25
    assert shards(store).items() <= whole.items()
    assert run_ssgear("generate", *OPTIONS, "--output", store).status == 0
    assert shards(store) == whole


@pytest.mark.slow
def test_workers_of_a_killed_command_end_and_free_their_shards(
    whole: dict[str, bytes], run_ssgear: Ssgear, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = started(store, "--workers", "2")
    wait_for(process, lambda: num_markers(store) >= 2)
    process.kill()
    process.wait()
    assert run_ssgear("generate", *OPTIONS, "--output", store).status == 0
    assert shards(store) == whole and leftovers(store) == []


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """Let no file grow beyond 40 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


BIG = ("--generator", "tests.views.stand_ins:Quick", "--count", 40, "--shard-size", 20)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_stops_cleanly(workers: int, run_ssgear: Ssgear, tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = (*BIG, "--side", 40, "--output", store)
    with small_disk():
        done = run_ssgear("generate", *options, "--workers", workers)
    assert done.status == 2 and "Traceback" not in done.err
    assert done.complaint.startswith("ssgear: --output: cannot be written: File too large; make")
    assert leftovers(store) == [] and not shards(store)
    assert run_ssgear("generate", *options).status == 0
    assert len(ViewStore(store)) == 40
