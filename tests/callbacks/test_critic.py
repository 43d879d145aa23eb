"""The warning about a failed critic: real runs that go wrong on purpose, told once, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssgear.callbacks.critic import CriticWatch
from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.evaluation.generated.critic_health import WINDOW
from tests.engine.training import SMALL as QUICK
from tests.methods.gan import SMALL

GAN_ALONE = (
    "--method.no-train-encoder", "--method.no-synthetic-rows", "--method.generator-ssl-weight",
    "0", "--method.phi", "constant", "--method.n-critic", "1", "--optim.epochs", "1",
)  # fmt: skip
FAST = ("--method.critic-lr", "1")
FAR = "apart, but images at most 111: its gradients are far above 1"
BLIND = ("--method.adversarial", "hinge", "--method.critic-lr", "1e-9")


def watched(output: Path, *options: str, steps: int = 36) -> tuple[Run, CriticWatch, list[Any]]:
    arguments = [*QUICK, *SMALL, *GAN_ALONE, *options, "--output", str(output)]
    run = prepare(cli.parse([*arguments, "--optim.max-steps", str(steps)]))
    watch = CriticWatch()
    Trainer(run, (watch,)).run()
    return run, watch, notes(output)


def notes(output: Path) -> list[Any]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "note"]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (BLIND, "blind", "tells nothing apart"),
        (("--method.adversarial", "wgan", "--method.gp-weight", "0", *FAST), "exploded", FAR),
        (("--method.adversarial", "logistic", *FAST), "exploded", FAR),
        (("--method.adversarial", "hinge", *FAST), "exploded", FAR),
        (("--method.adversarial", "rpgan", *FAST), "exploded", FAR),
    ],
)
def test_a_critic_that_fails_is_told_once(
    options: tuple[str, ...], kind: str, said: str, tmp_path: Path
) -> None:
    run, watch, told = watched(tmp_path / "run", *options)
    assert run.results.generator == {"critic": kind} and watch.failed == kind
    assert len(told) == 1 and said in told[0]["message"]
    # logged every step, from 13 steps of 125 on: the first window is full at step 33
    assert told[0]["step"] == 33 and len(watch.readings) == WINDOW


def test_a_resumed_run_goes_on_watching(tmp_path: Path) -> None:
    output = tmp_path / "run"
    watched(output, *BLIND, steps=25)
    assert notes(output) == []
    run = prepare(cli.parse(["--resume", str(output), "--optim.max-steps", "36"]))
    Trainer(run, (CriticWatch(),)).run()
    assert [line["step"] for line in notes(output)] == [33]


def test_where_realism_counts_for_nothing_nobody_watches(tmp_path: Path) -> None:
    off = ("--method.adversarial-weight", "0", "--method.generator-ssl-weight", "1")
    run, watch, told = watched(tmp_path / "run", *BLIND, *off, steps=2)
    assert (watch.readings, told) == ([], []) and not run.results.generator


def test_a_lazy_penalty_is_logged_in_every_step_as_it_was_when_last_due(tmp_path: Path) -> None:
    lazy = ("--method.adversarial", "hinge", "--method.r1-gamma", "2", "--method.r1-interval", "2")
    watched(tmp_path / "run", *lazy, steps=4)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    first, second, third, fourth = (line["penalty"] for line in train)
    assert first == second > 0 and third == fourth > 0 and third != first
    due, free = train[0], train[1]  # in the loss it counts twice where it is due, else not at all
    assert due["loss_critic"] == pytest.approx(due["critic_loss"] + 2 * first, rel=1e-5)
    assert free["loss_critic"] == pytest.approx(free["critic_loss"], rel=1e-6)
