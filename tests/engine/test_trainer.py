"""What the trainer promises beside equal losses: stops on NaN, callbacks that change nothing."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.config import cli
from ssgear.data.loaders.batch import Batch
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.errors import TrainingError
from ssgear.storage.checkpoint import list_checkpoints, load_tensors
from tests.engine.training import SMALL, column, losses, train


class Meddler(Callback):
    """Draws random numbers and switches modes, as careless callbacks do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def on_step(self, run: Run) -> None:
        run.method.eval()
        torch.rand(3)
        random.random()
        self.calls.append(("step", run.step))

    def on_epoch(self, run: Run) -> None:
        self.calls.append(("epoch", run.step))

    def on_end(self, run: Run, reason: str) -> None:
        self.calls.append((reason, run.step))

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = [("restored", state["calls"])]


SHORT = ("--model.norm", "batch", "--optim.batch-size", "1000", "--optim.epochs", "1")


def test_callbacks_are_called_in_order_and_change_nothing(tmp_path: Path) -> None:
    meddler = Meddler()
    assert train(tmp_path / "a", *SHORT, callbacks=(meddler,)) == train(tmp_path / "b", *SHORT)
    expected = [("step", 1), ("step", 2), ("step", 3), ("step", 4), ("epoch", 4), ("finished", 4)]
    assert meddler.calls == expected


def test_the_same_steps_can_be_taken_without_a_log_or_a_checkpoint(tmp_path: Path) -> None:
    options = (*SMALL, *SHORT, "--optim.epochs", "2", "--optim.max-steps", "6")
    runs = [
        prepare(cli.parse([*options, "--output", str(tmp_path / name)]))
        for name in ("run", "steps")
    ]
    Trainer(runs[0], ()).run()
    walk = Trainer(runs[1], ()).steps()
    assert next(walk) == runs[1].step == 1
    assert list(walk) == [2, 3, 4, 5, 6]
    assert list(Trainer(runs[1], ()).steps()) == []
    weights = [torch.cat([w.flatten() for w in run.method.parameters()]) for run in runs]
    assert torch.equal(*weights)
    assert not losses(tmp_path / "steps") and not list_checkpoints(tmp_path / "steps")
    runs[1].log.close()


def test_a_loss_that_is_not_finite_ends_the_run_before_it_can_be_saved(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 2:
                with torch.no_grad():
                    next(run.method.encoder.parameters()).fill_(torch.nan)

    options = ("--optim.max-steps", "5", "--checkpoint.every", "1")
    with pytest.raises(TrainingError, match=r"step 3: .*'encoder'.*step-2.*--optim\.lr"):
        train(tmp_path / "run", *options, callbacks=(Poison(),))
    assert len(losses(tmp_path / "run")) == 2
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step-1", "step-2"]


def test_time_spent_waiting_for_data_is_logged(tmp_path: Path) -> None:
    class Slow(Callback):
        def on_start(self, run: Run) -> None:
            batches = run.loader.epoch

            def slowly(*args: Any) -> Iterator[Batch]:
                for number, batch in enumerate(batches(*args)):
                    time.sleep(2.0 if number == 1 else 0.0)
                    yield batch

            run.loader.epoch = slowly  # type: ignore[method-assign]

    train(tmp_path / "run", "--optim.max-steps", "3", callbacks=(Slow(),))
    shares = column(tmp_path / "run", "data_wait")
    assert min(shares) > 0 and max(shares) == shares[1] < 1
    seconds = 32 / column(tmp_path / "run", "images_per_second")[1]
    assert shares[1] * seconds >= 2.0 - 1e-3 * seconds


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    options = ("--optim.max-steps", "7", "--checkpoint.every", "2", "--checkpoint.keep", "3")
    train(tmp_path / "run", *options)
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == ["step-4", "step-6", "step-7"]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-7\n"


def test_every_optimizer_takes_another_way(tmp_path: Path) -> None:
    options = ("--optim.max-steps", "4", "--optim.warmup-epochs", "0", "--optim.lr", "0.3")
    columns = [
        train(tmp_path / name, *options, "--optim.name", name) for name in ("lars", "sgd", "adamw")
    ]
    assert columns[0][0] == columns[1][0] == columns[2][0]  # the first loss is before any step
    assert len({tuple(column) for column in columns}) == 3
    assert all(math.isfinite(loss) for column in columns for loss in column)


def test_an_average_of_the_weights_is_kept_and_changes_no_loss(tmp_path: Path) -> None:
    options = ("--optim.max-steps", "4", "--optim.warmup-epochs", "0")
    plain = train(tmp_path / "plain", *options)
    assert train(tmp_path / "ema", *options, "--optim.ema", "0.5") == plain
    folder = list_checkpoints(tmp_path / "ema")[-1]
    average = load_tensors(folder / "rank-0.pt")["averages"]["encoder"]
    weights = load_tensors(folder / "group-encoder.pt")["weights"]
    distances = [float((average[name] - weights[name]).abs().max()) for name in average]
    assert 0 < max(distances) < 0.1


def test_bf16_and_clipping_take_effect(tmp_path: Path) -> None:
    options = ("--optim.max-steps", "3", "--model.norm", "batch")
    plain = train(tmp_path / "plain", *options)
    bf16 = train(tmp_path / "bf16", *options, "--engine.precision", "bf16")
    assert bf16 != plain and bf16 == pytest.approx(plain, rel=0.02)
    clipped = train(tmp_path / "clip", *options, "--optim.clip", "1e-9", "--optim.name", "sgd")
    frozen = train(tmp_path / "slow", *options, "--optim.lr", "1e-12", "--optim.name", "sgd")
    assert clipped == pytest.approx(frozen, abs=1e-5)
