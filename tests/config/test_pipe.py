"""Commands whose standard output is not read to its end."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ssgear.config.pipe import ending_with_the_reader

COMMANDS = {
    "ssgear": ("ssgear.__main__", "--help"),
    "train": ("ssgear.train", "--help"),
    "a method": ("ssgear.train", "--method", "simclr", "--help"),
    "settings": ("ssgear.train", "--dry-run"),
    "generate": ("ssgear.generate", "--help"),
    "evaluate": ("ssgear.evaluate", "--help"),
    "doctor": ("ssgear.doctor.command", "--help"),
}


@pytest.fixture
def unread() -> Iterator[int]:
    """The writing end of a pipe that nobody reads: `| head` is done already."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("buffering", [1, -1])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_leaves_ends_every_command(
    name: str, buffering: int, unread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, *words = COMMANDS[name]
    with open(unread, "w", buffering=buffering, closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as leaving:
            importlib.import_module(module).main(words)
        assert leaving.value.code == 1


def test_nothing_is_said_and_nothing_fails_as_python_ends(unread: int) -> None:
    command = [sys.executable, "-m", "ssgear.generate", "--help"]
    done = subprocess.run(command, stdout=unread, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_other_broken_pipes_are_raised(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), ending_with_the_reader():
        raise BrokenPipeError  # to a worker process, say


def test_without_standard_output_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with ending_with_the_reader():
        pass
    with pytest.raises(BrokenPipeError), ending_with_the_reader():
        raise BrokenPipeError
