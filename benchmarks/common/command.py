"""The command line of a benchmark: options that all have, one-line errors, results as JSON.

A benchmark's module defines `BENCHMARK`, which `python -m benchmarks` and the module itself run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.common import machine
from ssgear.errors import SsgearError


class WrongResultError(Exception):
    """A value or a gradient is off: nothing more is timed."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"benchmark: {message}\n")


def count(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of at least 1")
    return int(text)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark's module hands to the command line."""

    name: str
    description: str | None
    """The module's docstring; its first line is shown."""
    measure: Callable[[argparse.Namespace], dict[str, Any] | int]
    """Checks, times, prints, and returns what `--json` keeps; an exit status if it keeps that."""
    add_options: Callable[[Parser], object] = id
    """Adds the options that only this benchmark has."""
    rounds: int = 7
    threads: int | None = None
    """The one number of CPU threads that can be timed; None: any."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    passes_on: bool = False
    """Whether what follows `--` belongs to another command: `options.further`."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Read the command line; `device` becomes `cpu` or `cuda`."""
        description = (self.description or "").partition("\n")[0]
        parser = Parser(prog=f"python -m benchmarks {self.name}", description=description)
        fixed = None if self.threads is None else [self.threads]
        rounds = f"how often each is timed ({self.rounds})"
        add = parser.add_argument
        add("--json", type=Path, metavar="FILE", help="write the results there")
        add("--rounds", type=count, default=self.rounds, help=rounds)
        add("--threads", type=count, default=self.threads, choices=fixed, help="CPU threads")
        add("--device", choices=("auto", *self.devices), default="auto")
        self.add_options(parser)
        words = list(sys.argv[1:] if argv is None else argv)
        end = words.index("--") if self.passes_on and "--" in words else len(words)
        options = parser.parse_args(words[:end])
        options.further = words[end + 1 :]
        has_gpu = torch.cuda.is_available()
        if options.device == "cuda" and not has_gpu:
            parser.error("argument --device: there is no NVIDIA GPU here; use cpu")
        if options.device == "auto":
            options.device = "cuda" if has_gpu and "cuda" in self.devices else "cpu"
        return options

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, keep, and return the exit status."""
        options = self.parse(argv)
        if options.threads:
            torch.set_num_threads(options.threads)
        try:
            results = self.measure(options)
        except WrongResultError as error:
            print(f"benchmark: {error}; nothing more is timed", file=sys.stderr)
            return 1
        except SsgearError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return error.exit_status
        if isinstance(results, int):
            return results
        if options.json:
            text = json.dumps(
                {**machine.describe(options.device), **results}, indent=1, default=asdict
            )
            options.json.write_text(text + "\n", encoding="utf-8")
        return 0
