"""What every refusal of a command has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ssgear.train import main as train


def refused(
    capsys: pytest.CaptureFixture[str],
    *argv: str,
    command: Callable[[Sequence[str]], int] = train,
) -> str:
    """Run the command, check that it is refused in one line, and return the line."""
    capsys.readouterr()
    assert command(list(argv)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in told if line.startswith("ssgear: ")]
    assert len(lines) == 1, told
    assert lines[0] == told[-1]
    assert "Traceback" not in "\n".join(told)
    return lines[0]
