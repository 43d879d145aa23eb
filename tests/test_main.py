from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ssgear import __version__


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_names_the_commands(run_ssgear: Callable[..., Any], words: list[str]) -> None:
    outcome = run_ssgear(*words)
    assert outcome.status == 0
    for command in ("train", "generate", "evaluate", "compare", "doctor"):
        assert f"  {command} " in outcome.out
    assert "views of real ones" in outcome.out
    assert all(len(line) < 100 for line in outcome.out.splitlines())


def test_version(run_ssgear: Callable[..., Any]) -> None:
    assert run_ssgear("--version").out == f"ssgear {__version__}\n"


def test_unknown_command(run_ssgear: Callable[..., Any]) -> None:
    outcome = run_ssgear("trian", "--optim.lr", 1)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        "ssgear: trian: unknown command (did you mean train?); "
        "known: train, generate, evaluate, compare, doctor\n"
    )


def test_a_command_gets_its_words_and_only_it_is_imported() -> None:
    program = (
        "import sys; from ssgear.__main__ import main\n"
        "assert main(['train', '--zzz']) == 2\n"
        "others = {f'ssgear.{name}' for name in ('doctor', 'evaluate', 'generate')}\n"
        "assert not ({'torch'} | others) & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("ssgear: --zzz: unknown option")


def test_module_form() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ssgear", "evalute"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "did you mean evaluate?" in done.stderr
