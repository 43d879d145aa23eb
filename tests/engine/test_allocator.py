"""Freed memory stays with the process: the next step meets no new pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssgear.config import cli
from ssgear.engine import allocator
from ssgear.engine.build import prepare

BLOCKS = """
import resource, torch
from ssgear.engine.allocator import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24), torch.ones(1 << 22)  # 64 and 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
plain = faults()
kept = keep_freed_memory()
print(plain, kept, *(faults() for _ in range(6)))
"""
PAGES = 80 * 256
"""Of 4 KiB, that the blocks above take."""


def blocks(**environment: str) -> tuple[int, list[int]]:
    """Return the size of blocks that are kept, and the page faults of the same blocks each time."""
    told = (*allocator.CHOSEN_BY, allocator.TUNABLES)
    bare = {key: value for key, value in os.environ.items() if key not in told}
    command, env = [sys.executable, "-c", BLOCKS], {**bare, **environment}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    plain, kept, *again = (int(word) for word in ran.stdout.split())
    if plain < PAGES / 2:
        pytest.skip("blocks cost nothing here: huge pages, or another C library")
    return kept, again


def test_blocks_that_were_freed_are_taken_again() -> None:
    kept, again = blocks()
    if kept == allocator.LARGEST_KEPT_OLD:
        pytest.skip("an old glibc, which keeps smaller blocks than these")
    assert kept == allocator.LARGEST_KEPT
    assert again[-1] < PAGES / 50, again  # small blocks may lie in the way of the first


@pytest.mark.parametrize(
    "chosen",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
    ids=str,
)
def test_an_environment_that_sets_the_allocator_up_is_left_alone(chosen: dict[str, str]) -> None:
    kept, again = blocks(**chosen)
    assert kept == 0
    assert min(again) > PAGES / 2


def test_tunables_of_something_else_decide_nothing() -> None:
    kept, _ = blocks(GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512")
    assert kept


def test_another_c_library_has_nothing_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*allocator.CHOSEN_BY, allocator.TUNABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()


@pytest.mark.parametrize("keeps", [True, False])
def test_a_run_on_a_cpu_keeps_it(
    keeps: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = []
    monkeypatch.setattr("ssgear.engine.build.keep_freed_memory", lambda: called.append(True))
    options = ["--engine.device", "cpu", "--log.no-tensorboard", "--output", str(tmp_path / "run")]
    prepare(cli.parse([*options, "--engine.keep-memory", str(keeps)])).log.close()
    assert called == [True] * keeps
