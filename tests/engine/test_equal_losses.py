"""Twenty steps in float32 from one seed are the same whatever carries them out (docs/math.md 1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.view_stores import folder, view_store, write_store
from tests.engine.training import ds_json, train
from tests.ranks import Ranks

STEPS = ("--optim.max-steps", "20")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def single() -> Iterator[Ranks]:
    """One rank in a process of its own: DeepSpeed keeps global state."""
    ranks = Ranks(1)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The loss column of one process and the plain runtime."""
    column = train(tmp_path_factory.mktemp("plain") / "run", *STEPS)
    assert len(column) == 20
    assert column[-1] < column[0]  # it trains: equal columns of a frozen model would prove nothing
    return column


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_stages_equal_torch(
    stage: int, expected: list[float], single: Ranks, tmp_path: Path
) -> None:
    options = ("--deepspeed", str(ds_json(tmp_path, stage)), *STEPS)
    assert single.run(train, tmp_path / "run", *options)[0] == pytest.approx(
        expected, abs=TOLERANCE
    )


def test_two_ranks_equal_one(expected: list[float], pair: Ranks, tmp_path: Path) -> None:
    assert pair.run(train, tmp_path / "run", *STEPS)[0] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_deepspeed_ranks_equal_one(
    stage: int, expected: list[float], pair: Ranks, tmp_path: Path
) -> None:
    options = ("--deepspeed", str(ds_json(tmp_path, stage)), *STEPS)
    assert pair.run(train, tmp_path / "run", *options)[0] == pytest.approx(expected, abs=TOLERANCE)


def test_two_ranks_mix_synthetic_images_as_one_does(pair: Ranks, tmp_path: Path) -> None:
    few = write_store(tmp_path / "store", 11)
    options = ("--data.synthetic", str(few), "--data.synthetic-ratio", "0.6", *STEPS)
    one = train(tmp_path / "one", *options)
    two = pair.run(train, tmp_path / "two", *options)[0]
    assert two == pytest.approx(one, abs=TOLERANCE)


def test_two_ranks_mix_stored_views_as_one_does(pair: Ranks, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 40, size=32)
    views = view_store(tmp_path / "store", images, size=32)
    options = (
        "--data.path", str(images), "--data.source", "folder", "--views.store", str(views),
        "--views.policy", "any", "--views.probability", "0.6", "--optim.max-steps", "8",
    )  # fmt: skip
    one = train(tmp_path / "one", *options)
    two = pair.run(train, tmp_path / "two", *options)[0]
    assert two == pytest.approx(one, abs=TOLERANCE)


def test_micro_batches_equal_the_whole(expected: list[float], tmp_path: Path) -> None:
    for micro_batch in ("8", "5"):  # 5 does not divide 32
        run = tmp_path / micro_batch
        column = train(run, "--optim.micro-batch", micro_batch, *STEPS)
        assert column == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_micro_batches_equal_the_whole_with_deepspeed(
    stage: int, expected: list[float], pair: Ranks, tmp_path: Path
) -> None:
    path = ds_json(tmp_path, stage, train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=4)
    column = pair.run(train, tmp_path / "run", "--deepspeed", str(path), *STEPS)[0]
    assert column == pytest.approx(expected, abs=TOLERANCE)


def test_learned_temperature_over_ranks_and_micro_batches(pair: Ranks, tmp_path: Path) -> None:
    options = ("--method.learned-temperature", *STEPS)
    whole = train(tmp_path / "whole", *options)
    cached = pair.run(train, tmp_path / "pair", *options, "--optim.micro-batch", "4")[0]
    assert cached == pytest.approx(whole, abs=TOLERANCE)
