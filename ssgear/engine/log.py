"""What a run writes while it goes on.

`metrics.jsonl`, TensorBoard events, notes, and the progress bar. One JSON object per line; `kind`
is "train" (always with step and loss), "eval" or "note". Only rank 0 writes. A resumed run cuts the
file back to its checkpoint's step first, so that the loss column has no seam.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ssgear.storage.atomic import Json, write_text

METRICS = "metrics.jsonl"


def jsonable(value: Json) -> Json:
    """Return a number that JSON can hold: NaN and infinity become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_metrics(run: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that a kill left half-written."""
    path = run / METRICS
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry.get("step", 0) <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


class Log:
    """Writer of a run's figures; on ranks other than 0, and with no directory, it does nothing."""

    def __init__(
        self,
        run: Path,
        *,
        enabled: bool,
        tensorboard: bool = True,
        progress: bool = True,
        total_steps: int = 0,
        first_step: int = 0,
        lock: IO[str] | None = None,
    ) -> None:
        """Open the files for appending; `first_step` is where a resumed run goes on.

        `lock` keeps other writers out of the directory until the log is closed.
        """
        self._lock = lock
        self._path = run / METRICS
        self.enabled = enabled
        self._file = (run / METRICS).open("a", buffering=1) if enabled else None
        self._board = _board(run, first_step) if enabled and tensorboard else None
        self._bar = _Bar(total_steps, first_step) if enabled and progress else None

    def train(self, step: int, **values: float | None) -> None:
        """Write one line of kind "train"."""
        self.write("train", step, values)
        if self._bar is not None:
            self._bar.update(step, values)

    def write(self, kind: str, step: int, values: Mapping[str, Json]) -> None:
        """Write one line, and its numbers to TensorBoard."""
        if self._file is None:
            return
        plain = {name: jsonable(value) for name, value in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **plain}) + "\n")
        if self._board is not None:
            for name, value in plain.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def holds(self, kind: str, step: int) -> bool:
        """Whether there is a line of that kind for that step, from before an interruption, say."""
        lines = self._path.read_text().splitlines() if self.enabled else []
        entries = [json.loads(line) for line in lines if f'"kind": "{kind}"' in line]
        return any(entry["step"] == step for entry in entries)

    def note(self, step: int, message: str) -> None:
        """Tell the user something once, on standard error and in the log."""
        if self.enabled:
            self.write("note", step, {"message": message})
            self.say(message)

    def say(self, message: str) -> None:
        """Print a line on standard error without breaking the progress bar."""
        if not self.enabled:
            return
        if self._bar is not None and self._bar.live:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush and close everything."""
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.close()
        self._board = self._bar = self._lock = None


def _board(run: Path, first_step: int) -> Any:
    # TensorBoard brings its own protobuf and takes a second to import: only when a run starts
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"), purge_step=first_step or None)


class _Bar:
    """A progress bar on a terminal; a plain line every 10 % elsewhere."""

    def __init__(self, total: int, first: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.total = total
        self._first, self._started = first, time.perf_counter()
        self._told = 10 * first // max(total, 1)
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, completed=first, figures="")
        if self.live:
            self._bar.start()

    def update(self, step: int, values: Mapping[str, float | None]) -> None:
        loss, speed = values.get("loss"), values.get("images_per_second")
        figures = f"loss {loss:.4f}" if loss is not None else ""
        figures += f"  {speed:.0f} images/s" if speed else ""
        if self.live:
            self._bar.update(self._task, completed=step, figures=figures)
        elif 10 * step // max(self.total, 1) > self._told:
            self._told = 10 * step // max(self.total, 1)
            spent = time.perf_counter() - self._started
            left = spent * (self.total - step) / max(step - self._first, 1)
            print(f"step {step}/{self.total}  {figures}  {left:.0f} s left", file=sys.stderr)

    def close(self) -> None:
        if self.live:
            self._bar.stop()
