"""A run that is stopped by a step limit, and the same run continued to its end."""

from __future__ import annotations

import json
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
    # the step limit is the only setting that differs: the rest goes on as if it had never been
    config = parts / "config.json"
    saved = json.loads(config.read_text())
    saved["optim"]["max_steps"] = steps
    config.write_text(json.dumps(saved))
    Trainer(prepare(cli.parse(["--resume", str(parts)])), ()).run()
    return whole, parts
