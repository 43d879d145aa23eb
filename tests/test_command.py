"""What the commands share: mistakes, signals, standard output that is not read to its end."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ssgear.command import command, ending_on_signals, quiet_without_reader
from ssgear.errors import ConfigError, Interrupted, TrainingError

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
    with pytest.raises(BrokenPipeError), quiet_without_reader():
        raise BrokenPipeError  # to a worker process, say


def test_without_standard_output_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with quiet_without_reader():
        pass
    with pytest.raises(BrokenPipeError), quiet_without_reader():
        raise BrokenPipeError


class Stopped(TrainingError):
    exit_status = 130


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("--seed: no"), 2, "ssgear: --seed: no\n"),
        (Stopped("saved"), 130, "ssgear: saved\n"),
        (KeyboardInterrupt(), 130, "ssgear: come back\n"),
        (Interrupted(signal.SIGTERM), 143, "ssgear: come back\n"),
    ],
)
def test_an_end_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command(interrupted="come back")
    def main(words: list[str]) -> int:
        assert words == ["--seed"]
        raise error

    assert main(["--seed"]) == status
    assert capsys.readouterr() == ("", line)


def test_bugs_keep_their_traceback() -> None:
    @command()
    def main(words: list[str]) -> int:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        main([])


def test_interrupts_are_one_line_without_words_of_the_command_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @command()
    def main(words: list[str]) -> int:
        raise KeyboardInterrupt

    assert main([]) == 130
    assert capsys.readouterr() == ("", "ssgear: interrupted\n")


def test_words_come_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ssgear", "a", "b"])
    assert command()(lambda words: len(words))() == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_block_and_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, ending_on_signals():
        signal.raise_signal(number)
    assert caught.value.number == number and signal.getsignal(number) is before
