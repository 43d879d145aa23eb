"""Runs of the engine to be timed: prepared quietly, and walked step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer


def prepared(output: Path, device: str, *options: str) -> Run:
    """Prepare a run of `ssgear.train`'s options, on as many threads as this process has."""
    fixed = [
        "--log.no-tensorboard", "--log.no-progress", "--engine.device", device,
        "--engine.threads", str(torch.get_num_threads()), "--output", str(output),
    ]  # fmt: skip
    return prepare(cli.parse([*fixed, *options]))


def endless_steps(run: Run, first: int = 0) -> Iterator[int]:
    """Take the run's steps from this one to the last, over and over."""
    trainer = Trainer(run, ())
    while True:
        run.step = first
        yield from trainer.steps()


def train_lines(run: Run) -> list[dict[str, Any]]:
    """Return what a run logged at its training steps."""
    text = (run.directory / "metrics.jsonl").read_text(encoding="utf-8")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["kind"] == "train"]
