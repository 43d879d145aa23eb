"""Kill at a random step, resume: the loss column is that of the run that never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.training import SMALL, losses

STEPS = 24
OPTIONS = [
    *SMALL, "--model.norm", "batch", "--optim.momentum", "0.9", "--optim.max-steps", str(STEPS),
    "--checkpoint.every", "5", "--eval.every", "0", "--eval.no-final", "--optim.ema", "0.99",
]  # fmt: skip


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "ssgear.train", *options]


def run_to_end(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options), cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )


def wait_for_lines(run: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until that many log lines are there."""
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        path = run / "metrics.jsonl"
        if path.is_file() and path.read_bytes().count(b'"train"') >= count:
            return
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("whole")
    done = run_to_end(folder, *OPTIONS, "--output", "run")
    assert done.returncode == 0, done.stderr
    column = losses(folder / "run")
    assert len(column) == STEPS
    return column


REPEATS = [pytest.param(seed, marks=[] if seed == 0 else pytest.mark.slow) for seed in range(5)]


@pytest.mark.parametrize("seed", REPEATS)
def test_killed_and_resumed_equals_uninterrupted(
    seed: int, whole: list[float], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(*OPTIONS, "--output", "run"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_lines(tmp_path / "run", random.Random(seed).randint(6, STEPS - 2), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert losses_so_far(tmp_path / "run") < STEPS
    done = run_to_end(tmp_path, "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == whole


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "dali"])
def test_engines_that_read_files_go_on_too(engine: str, tmp_path: Path) -> None:
    """With other numbers of workers as well: they decide nothing."""
    options = [*OPTIONS, "--data.loader", engine]
    done = run_to_end(tmp_path, *options, "--data.workers", "1", "--output", "whole")
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        command(*options, "--data.workers", "3", "--output", "run"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_lines(tmp_path / "run", 13, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert losses_so_far(tmp_path / "run") < STEPS
    done = run_to_end(tmp_path, "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def losses_so_far(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b'"train"')


SIGNALS = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_save_and_name_the_resume_command(
    number: signal.Signals, whole: list[float], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(*OPTIONS, "--output", "run"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for_lines(tmp_path / "run", 7, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"--resume run" in told and b"Traceback" not in told
    done = run_to_end(tmp_path, "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == whole


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_final_figures_names_the_resume_command(
    number: signal.Signals, tmp_path: Path
) -> None:
    options = [*SMALL, "--optim.max-steps", "2", "--eval.every", "0", "--output", "run"]
    process = subprocess.Popen(
        command(*options), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert any(b"final figures" in line for line in process.stderr)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"--resume run" in told and b"Traceback" not in told
    done = run_to_end(tmp_path, "--resume", "run")
    assert done.returncode == 0 and (tmp_path / "run" / "summary.json").is_file(), done.stderr


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    """Writes beyond 200 kB fail: no checkpoint fits, the log does, the run goes on and says so."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from ssgear.train import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *OPTIONS, "--optim.max-steps", "7", "--output", "run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert "could not save step 5" in done.stderr
    assert "the run goes on" in done.stderr
    assert len(losses(tmp_path / "run")) == 7
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
