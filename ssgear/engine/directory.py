"""A run's directory: claimed once, held by one process, continued with the same settings."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import IO

from ssgear.config import runs
from ssgear.config.schema import Config
from ssgear.distributed import World
from ssgear.engine.log import Log, cut_metrics
from ssgear.errors import CheckpointError, ConfigError, SsgearError
from ssgear.storage.atomic import write_json
from ssgear.storage.lock import hold

MARKS = ("config.json", "metrics.jsonl", "checkpoints")


def choose_directory(config: Config, resume: Path | None, world: World) -> Path:
    """Return the run's directory; refuse one that holds another run, or other settings."""
    if resume is not None:
        _refuse_changes(config, resume)
        return resume
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = config.output or Path("runs") / f"{config.method_name}-{now}"
    directory = Path(world.gather(str(directory))[0])
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output: {directory} is a file; name a directory")
    _refuse_held(directory)
    return directory


def _refuse_changes(config: Config, directory: Path) -> None:
    """Refuse to continue a run with other settings; ds.json has filled in its own on both sides."""
    saved = runs.load_file(directory / "config.json")
    changed = runs.differences(saved, config)
    if changed:
        raise CheckpointError(
            f"--resume: {directory} was trained with other settings: {'; '.join(changed)}; resume "
            "without changing them, or start a new run"
        )


def _refuse_held(directory: Path) -> None:
    held = [name for name in MARKS if (directory / name).exists()]
    if held:
        raise ConfigError(
            f"--output: {directory} holds another run ({held[0]} is there); continue it with "
            f"--resume {directory}, or name another directory"
        )


def open_log(
    config: Config, directory: Path, world: World, total_steps: int, resumed_at: int | None
) -> Log:
    """Take hold of the directory and open its log; of a resumed run, later metrics are cut."""
    lock = _start_directory(config, directory, world, is_new=resumed_at is None)
    first = resumed_at or 0
    if world.is_main:
        cut_metrics(directory, first)
    return Log(
        directory,
        enabled=world.is_main,
        lock=lock,
        tensorboard=config.log.tensorboard,
        progress=config.log.progress,
        total_steps=min(total_steps, config.optim.max_steps or total_steps),
        first_step=first,
    )


def _start_directory(
    config: Config, directory: Path, world: World, *, is_new: bool
) -> IO[str] | None:
    """Lock the directory on rank 0 and write config.json; what is wrong there, all ranks raise."""
    lock, problem = None, None
    if world.is_main:
        try:
            lock = hold(directory)
            if is_new:
                _refuse_held(directory)  # again: another run may have come and gone meanwhile
                write_json(directory / "config.json", runs.dump(config))
        except SsgearError as error:
            problem = error
    for refusal in world.gather(problem):
        if refusal is not None:
            raise refusal
    return lock
