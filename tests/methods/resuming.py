"""A run that is stopped by a step limit, and the same run continued to its end."""

from __future__ import annotations

from pathlib import Path

from ssgear.config import cli
from ssgear.engine.setup import prepare
from ssgear.engine.trainer import Trainer
from tests.engine.training import train


def stopped_and_resumed(folder: Path, *options: str, steps: int = 6) -> tuple[Path, Path]:
    """Train `steps` steps at once, and again with a break after half of them; return both runs."""
    whole, parts = folder / "whole", folder / "parts"
    train(whole, *options, "--optim.max-steps", str(steps))
    train(parts, *options, "--optim.max-steps", str(steps // 2))
    words = ["--resume", str(parts), "--optim.max-steps", str(steps)]
    Trainer(prepare(cli.parse(words)), ()).run()
    return whole, parts
