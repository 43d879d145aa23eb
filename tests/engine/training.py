"""Short trainings for the engine's tests: the real trainer, real images, no callbacks."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback
from ssgear.engine.trainer import Trainer

SMALL = [
    "--preset", "quick", "--model.norm", "group", "--optim.batch-size", "32", "--log.every", "1",
    "--optim.lr", "1e-3", "--log.no-tensorboard", "--log.no-progress", "--engine.threads", "1",
]  # fmt: skip


def train(output: Path, *options: str, callbacks: tuple[Callback, ...] = ()) -> list[float]:
    """Train with the small settings and these, and return the loss column."""
    launch = cli.parse([*SMALL, "--output", str(output), *options])
    Trainer(prepare(launch), callbacks).run()
    return losses(output)


def losses(run: Path) -> list[float]:
    """Return the loss column of a run."""
    return column(run, "loss")


def column(run: Path, key: str) -> list[float]:
    """Return what a run logged by that name at its training steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line["kind"] == "train"]


def ds_json(folder: Path, stage: int, **more: object) -> Path:
    path = folder / f"ds{stage}.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}, **more}))
    return path


def assert_same(one: object, two: object, where: str) -> None:
    assert type(one) is type(two), where
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict) and isinstance(two, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}: {key}")
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        assert len(one) == len(two), where
        for place, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}[{place}]")
    else:
        assert one == two, where
