"""What others write in our place: a peer that this machine lacks is named once and left out."""

from __future__ import annotations

import functools
import importlib.util
import sys

import torch

from benchmarks.common.timing import Function


def is_installed(package: str) -> bool:
    """Whether a peer can be imported; says so where it cannot."""
    if importlib.util.find_spec(package) is not None:
        return True
    say(f"{package} is not installed and not compared; make bench installs it")
    return False


def compile_or_say(function: Function, *example: object) -> Function | None:
    """Compile a function for fixed shapes; None, and a line that says why, where it cannot."""
    compiled: Function = torch.compile(function, dynamic=False)
    try:
        compiled(*example)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        say(f"torch.compile does not work here: {lines[0]}")
        return None
    return compiled


@functools.cache
def say(line: str) -> None:
    """Print a remark beside the table, once."""
    print(f"benchmark: {line}", file=sys.stderr)
