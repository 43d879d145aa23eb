"""What a store will cost: measured on a clock of the test, beside what it does cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssgear.views.jobs import estimate as _estimate
from tests.data.view_stores import folder

Ssgear = Callable[..., Any]
NUMBERS = re.compile(r"\d[\d.,]*")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the generator take ten seconds a batch of four, and nothing else take time."""
    now = SimpleNamespace(seconds=0.0)
    entries = _estimate.entries

    def slow(state: Any, *rest: Any) -> Any:
        make = state.generator.generate

        def generate(*arguments: Any) -> Any:
            now.seconds += 10
            return make(*arguments)

        state.generator.generate = generate
        try:
            yield from entries(state, *rest)
        finally:
            state.generator.generate = make

    monkeypatch.setattr(_estimate, "entries", slow)
    monkeypatch.setattr(_estimate, "time", SimpleNamespace(monotonic=lambda: now.seconds))


def told(done: Any) -> dict[str, str]:
    assert done.status == 0, done.err
    return dict(line.split(maxsplit=1) for line in done.out.splitlines())


def numbers(text: str) -> list[float]:
    return [float(each.replace(",", "").rstrip(".")) for each in NUMBERS.findall(text)]


@pytest.mark.usefixtures("clock")
def test_time_and_space_of_what_is_missing(run_ssgear: Ssgear, tmp_path: Path) -> None:
    images, store = folder(tmp_path / "images", 24, size=20), tmp_path / "store"
    options = (
        "--generator", "tests.views.stand_ins:Quick", "--source-side", 16, "--upscale", "--views",
        2, "--data.path", images, "--data.test-share", 0, "--shard-size", 6, "--output", store,
    )  # fmt: skip
    lines = told(run_ssgear("generate", *options, "--estimate", "--workers", 2))
    assert not store.exists()
    # 8 shards of 6 are 2 batches of 4 each, as a batch begins in one and ends in the next
    assert numbers(lines["time"]) == [
        pytest.approx(16 * 10 / 60, rel=0.01),
        pytest.approx(8 * 10 / 60, rel=0.01),
        2,
    ]
    assert lines["time"].endswith(" minutes with 2, if none slows another")
    assert numbers(lines["missing"]) == [48, 48]
    assert numbers(lines["speed"])[:3] == [0.3, 8, 20], "two batches are worth the time"
    assert lines["stages"].startswith("stand-in ")
    assert run_ssgear("generate", *options, "--shard", "1/2").status == 0
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    half = told(run_ssgear("generate", *options, "--estimate"))
    assert numbers(half["missing"]) == [24, 48] and numbers(half["time"])[0] == pytest.approx(
        4 / 3, rel=0.01
    )
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before
    assert run_ssgear("generate", *options).status == 0
    made = sum(path.stat().st_size for path in store.glob("*.tar"))
    made -= 8 * 10240  # what a tar file is filled up with, at most
    guessed = 1e6 * numbers(lines["space"])[0]
    assert made * 0.9 < guessed < (made + 8 * 10240) * 1.1
    done = told(run_ssgear("generate", *options, "--estimate"))
    assert done["missing"] == "0 of 48 images" and numbers(done["space"])[0] == 0


@pytest.mark.usefixtures("clock")
def test_further_views_that_cost_less_are_measured_by_themselves(
    run_ssgear: Ssgear, tmp_path: Path
) -> None:
    images = folder(tmp_path / "images", 24, size=20)
    options = (
        "--generator", "tests.views.stand_ins:Describing", "--source-side", 16, "--views", 4,
        "--data.path", images, "--data.test-share", 0, "--shard-size", 6, "--estimate",
    )  # fmt: skip
    lines = told(run_ssgear("generate", *options))
    # on the clock only whole batches take time: those of first views, of which shards cut some
    assert numbers(lines["time"])[0] == pytest.approx(8 * 10 / 60, rel=0.01)
    assert numbers(lines["missing"]) == [96, 96]
    assert numbers(lines["speed"])[1:] == [16, 20], "two batches of either kind"


@pytest.mark.usefixtures("clock")
def test_a_part_and_failures_and_small_stores(run_ssgear: Ssgear, tmp_path: Path) -> None:
    options = ("--generator", "tests.views.stand_ins:Quick", "--shard-size", 8, "--estimate")
    part = told(run_ssgear("generate", *options, "--count", 32, "--shard", "1/4"))
    assert part["missing"] == "8 of 8 images" and numbers(part["time"])[0] == 0.333
    small = told(run_ssgear("generate", *options, "--count", 1))
    assert numbers(small["speed"])[:3] == [0.1, 1, 10]
    none = told(run_ssgear("generate", *options, "--count", 8, "--shard", "2/2"))
    assert none["missing"] == "0 of 0 images"
    failing = told(run_ssgear("generate", *options, "--count", 8, "--fail-every", 1))
    assert failing["speed"].endswith("(8 images in 20 s, 8 failed)")
    assert numbers(failing["space"])[0] == 0


def test_mistakes(run_ssgear: Ssgear, tmp_path: Path) -> None:
    options = ("--generator", "tests.views.stand_ins:Quick", "--output", tmp_path / "store")
    assert run_ssgear("generate", *options, "--count", 3).status == 0
    done = run_ssgear("generate", *options, "--count", 3, "--seed", 2, "--estimate")
    assert done.status == 2 and "made with other settings: seed (0, now 2)" in done.complaint
    done = run_ssgear("generate", *options, "--estimate")
    assert done.complaint == "ssgear: --count: say how many images the store is to hold"
    done = run_ssgear("generate", *options, "--estimate", "--verify")
    assert "--verify: and --estimate is not possible; use one of them" in done.complaint
