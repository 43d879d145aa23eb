"""Tiny runs of any method, as the contract test and its ranks start them."""

from __future__ import annotations

from pathlib import Path

from ssgear.config import cli, presets
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from tests.engine.training import losses

STEPS = 5
# by SGD: Adam would hide a gradient that is too large by a factor, such as the number of ranks, and
# turns the rounding of one that is zero into a step
FIXED = (
    "--model.norm", "group", "--optim.batch-size", "16", "--optim.name", "sgd", "--optim.lr",
    "0.02", "--optim.warmup-epochs", "0", "--log.every", "1", "--log.no-tensorboard",
    "--log.no-progress", "--engine.threads", "1", "--data.workers", "0", "--checkpoint.every",
    "100",
)  # fmt: skip


def brings_its_data(name: str) -> bool:
    """Whether a method's tiny preset names images of its own."""
    return "data.source" in presets.layer(f"{name}-tiny").settings


def arguments(name: str, output: Path, images: Path, *options: str) -> list[str]:
    """Return the command line of a tiny run."""
    ours = ["--data.source", "folder", "--data.path", str(images), "--data.size", "16"]
    data = [] if brings_its_data(name) else ours
    epochs = presets.layer(f"{name}-tiny").settings.get("optim.epochs", STEPS)
    length = ("--optim.max-steps", str(STEPS), "--optim.epochs", str(max(STEPS, epochs)))
    fixed = [*FIXED, *length, *data]
    return ["--preset", f"{name}-tiny", *fixed, "--output", str(output), *options]


def run_of(argv: list[str], callbacks: tuple[Callback, ...] = ()) -> Run:
    """Train and return the run."""
    run = prepare(cli.parse(argv))
    Trainer(run, callbacks).run()
    return run


def train(argv: list[str]) -> list[float]:
    """Train and return the loss column."""
    return losses(run_of(argv).directory)
