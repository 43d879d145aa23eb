"""What a person sees of a generation: a bar, `preview.jpg`, and a line of metrics.jsonl a shard."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ssgear.views.jobs.signals import Signals
from ssgear.views.jobs.thumbnails import write_preview
from ssgear.views.jobs.worker import BatchReport, ShardReport

METRICS = "metrics.jsonl"
_LINES_BYTES = 1 << 16
"""As much of the end of metrics.jsonl as has the last line."""
_PATIENCE_S = 1.0
"""Time until shards that another process had are looked at again."""


class Watcher:
    """Is told of every block and shard, from whichever worker; also says when to stop."""

    def __init__(self, root: Path, signals: Signals, advance: Callable[[int, str], None]) -> None:
        """Keep the store's directory, and what moves the bar and writes beside it."""
        self.root, self.signals, self._advance = root, signals, advance
        self._claimed: list[int] = []
        self._done: dict[int, int] = {}
        self._stages: Counter[str] = Counter()
        self._told: set[str] = set()
        self._began = time.monotonic()

    def batch(self, report: BatchReport) -> None:
        """Take the report of a block; ends by `Interrupted` where a signal asked for it."""
        more = report.done - self._done.get(report.shard, 0)  # a shard may be begun anew
        self._done[report.shard] = report.done
        self._stages.update(report.seconds)
        self._advance(more, self._speed())
        for note in report.notes:
            self.note(note)
        if report.preview is not None:
            write_preview(self.root, report.preview)
        self.signals.check()

    def shard(self, report: ShardReport) -> None:
        """Take the report of a shard that has been dealt with."""
        if report.outcome == "made":
            self._log(report)
        elif report.outcome == "claimed":
            self._claimed.append(report.shard)
        self.signals.check()

    def note(self, line: str) -> None:
        """Tell the user something, once."""
        if line not in self._told:
            self._told.add(line)
            print(f"ssgear: {line}", file=sys.stderr)

    def claimed(self) -> list[int]:
        """Return the shards that other processes are making, after some time."""
        shards, self._claimed = self._claimed, []
        if shards:
            word = "shard" if len(shards) == 1 else "shards"
            self.note(f"another process is making {len(shards)} {word}; waiting for it")
            time.sleep(_PATIENCE_S)
            self.signals.check()
        return shards

    def compare(self, hardware: str) -> None:
        """Say so where the latest shard was made on other hardware than the next ones."""
        before = hardware
        # there is no file where no shard has been made, another version has other lines
        with (
            suppress(OSError, ValueError, LookupError, TypeError),
            (self.root / METRICS).open("rb") as file,
        ):
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LINES_BYTES))
            before = json.loads(file.read().splitlines()[-1])["hardware"]
        if before != hardware:
            self.note(
                f"the latest shard was made on {before}, now it is {hardware}: last bits may differ"
            )

    def _speed(self) -> str:
        done, time_s = sum(self._done.values()), max(time.monotonic() - self._began, 1e-6)
        stages = [f"{name} {done / s:.3g}/s" for name, s in self._stages.items() if s > 0]
        return f"{done / time_s:.3g} images/s" + (f" ({', '.join(stages)})" if stages else "")

    def _log(self, report: ShardReport) -> None:
        fields = {
            "kind": "shard",
            "shard": report.shard,
            "images": report.images,
            "failed": report.failed,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
            "images_per_second": round(report.images / max(report.seconds, 1e-6), 3),
            "hardware": report.hardware,
            "stages": {name: round(seconds, 3) for name, seconds in report.stages.items()},
        }
        with (self.root / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")  # one write: other processes append too
