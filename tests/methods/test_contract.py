"""What every method in the registry owes: a new file in `ssgear/methods/` is tested by this too.

The tiny run is the method's preset `NAME-tiny` on 36 images. One process
with plain PyTorch is what everything else is compared with.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ssgear import load_encoder, registry
from ssgear.callbacks import Export
from ssgear.engine.run import Run
from ssgear.errors import ConfigError, SsgearError
from ssgear.storage.checkpoint import find_latest, load_tensors
from tests.data.view_stores import folder, view_store
from tests.engine.training import assert_same, ds_json, losses
from tests.methods.contract import STEPS, arguments, brings_its_data, run_of, train
from tests.ranks import Ranks

METHODS = registry.names("methods")
STAGES = (0, 1, 2)
TOLERANCE = 2e-5
PATIENCE = 600.0
"""Seconds for two ranks to import everything and train, on a machine that has other work too."""


@dataclass(frozen=True)
class Expected:
    """The run of one process."""

    run: Run
    column: list[float]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of 16 pixels in two classes, four of which are held out."""
    return folder(tmp_path_factory.mktemp("images") / "set", 40)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    return view_store(tmp_path_factory.mktemp("stored") / "views", images)


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Train a method once, when it is first asked for."""

    @functools.cache
    def of(name: str) -> Expected:
        output = tmp_path_factory.mktemp(name) / "run"
        run = run_of(arguments(name, output, images), (Export(),))
        return Expected(run, losses(output))

    return of


def close(column: list[float], wanted: list[float]) -> None:
    assert column == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_every_weight_that_is_in_a_group(name: str, expected) -> None:  # type: ignore[no-untyped-def]
    run, column = expected(name).run, expected(name).column
    assert len(column) == STEPS and all(math.isfinite(loss) for loss in column)
    assert len(set(column)) == STEPS
    for group in run.method.groups:
        state = run.runtime.optimizer(group.name).state
        moved = [weight for weight in group.parameters() if weight in state]
        assert len(moved) == len([each for each in group.parameters() if each.requires_grad])


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_equal_one(
    name: str, expected, pair: Ranks, images: Path, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    argv = arguments(name, tmp_path / "run", images)
    column = pair.run(train, argv, timeout=PATIENCE)[0]
    close(column, expected(name).column)


def _stages() -> Iterator[object]:
    """One stage of each method in the normal suite, all three over the methods."""
    for number, name in enumerate(METHODS):
        for stage in STAGES:
            marks = () if stage == number % len(STAGES) else (pytest.mark.slow,)
            yield pytest.param(name, stage, marks=marks)


@pytest.mark.parametrize(("name", "stage"), _stages())
def test_deepspeed_on_two_ranks_equals_torch(
    name: str,
    stage: int,
    expected,
    pair: Ranks,
    images: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    given = ("--deepspeed", str(ds_json(tmp_path, stage)))
    argv = arguments(name, tmp_path / "run", images, *given)
    column = pair.run(train, argv, timeout=PATIENCE)[0]
    close(column, expected(name).column)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_stopped_goes_on_to_the_bit(
    name: str,
    expected,
    images: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    """Weights, optimisers, buffers (queues, averages, tables) and random state."""
    output = tmp_path / "run"
    run_of(arguments(name, output, images, "--optim.max-steps", "3"), (Export(),))
    run_of(["--resume", str(output), "--optim.max-steps", str(STEPS)], (Export(),))
    assert losses(output) == expected(name).column
    one, two = find_latest(expected(name).run.directory), find_latest(output)
    assert json.loads((two / "manifest.json").read_text())["meta"]["step"] == STEPS
    for file in sorted(path.name for path in one.glob("*.pt")):
        assert_same(load_tensors(one / file), load_tensors(two / file), file)


@pytest.mark.parametrize("name", METHODS)
def test_its_encoder_is_exported(name: str, expected) -> None:  # type: ignore[no-untyped-def]
    run = expected(name).run
    size = run.method.encoder.size
    pixels = torch.randint(256, (3, 3, size, size), dtype=torch.uint8)
    encoder = load_encoder(run.directory)
    live = run.inference_encoder().eval()
    with torch.no_grad():
        # trained channels-last, read back in the ordinary order: equal up to rounding
        torch.testing.assert_close(encoder(pixels), live(pixels), rtol=1e-4, atol=1e-5)
    run.method.train()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loader", ["torch", "dali", "resident"])
def test_every_loader_feeds_it(
    loader: str,
    name: str,
    expected,
    images: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    """By files and from memory; DALI's crops round otherwise, and differ by 2/255 at most."""
    if loader == expected(name).run.loader.name:
        return
    if loader == "dali" and importlib.util.find_spec("nvidia.dali") is None:
        pytest.skip("no DALI here")
    argv = arguments(name, tmp_path / "run", images, "--data.loader", loader)
    try:
        column = train(argv)
    except SsgearError as error:
        assert brings_its_data(name) and "--data.loader" in str(error)  # its images are no files
        return
    if loader == "dali":
        assert column == pytest.approx(expected(name).column, rel=0.05, abs=0.05)
    else:
        close(column, expected(name).column)


@pytest.mark.parametrize("name", METHODS)
def test_generated_views_stand_for_images_or_are_refused(
    name: str,
    expected,
    images: Path,
    stored: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    given = ("--views.store", str(stored), "--views.policy", "any")
    try:
        column = train(arguments(name, tmp_path / "run", images, *given))
    except ConfigError as error:
        assert "--views.store" in str(error)  # it makes images of its own
        return
    assert len(column) == STEPS and all(math.isfinite(loss) for loss in column)
    assert column != expected(name).column


@pytest.mark.parametrize("name", METHODS)
def test_gradient_caching_is_exact_or_refused(
    name: str,
    expected,
    images: Path,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    argv = arguments(name, tmp_path / "run", images, "--optim.micro-batch", "5")
    method = expected(name).run.method
    if not method.needs(method.config).whole_batch:
        close(train(argv), expected(name).column)
    else:
        with pytest.raises(ConfigError, match=r"--optim\.micro-batch: .* needs its batch whole"):
            train(argv)
