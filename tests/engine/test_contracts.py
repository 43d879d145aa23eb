"""What every method may rely on in the engine, pinned by a toy method."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssgear.storage.checkpoint import find_latest, load_tensors
from tests.engine.training import ds_json, losses, train
from tests.ranks import Ranks

TOY = ("--method", "tests.engine.toy:Toy", "--optim.max-steps", "12", "--optim.warmup-epochs", "0")
ROOT = Path(__file__).parents[2]


def train_toy(output: Path, *options: str) -> list[float]:
    return train(output, *TOY, *options)


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[float], dict[str, torch.Tensor]]:
    run = tmp_path_factory.mktemp("toy") / "run"
    return train_toy(run), buffers(run)


def buffers(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(find_latest(run) / "rank-0.pt")["buffers"]


Expected = tuple[list[float], dict[str, torch.Tensor]]


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_two_ranks_and_every_stage_equal_one_process(
    stage: int | None, expected: Expected, pair: Ranks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = () if stage is None else ("--deepspeed", str(ds_json(tmp_path, stage)))
    column = pair.run(train_toy, run, *options)[0]
    assert column == pytest.approx(expected[0], abs=1e-5)
    assert buffers(run)["steps_taken"] == 12
    # queue rows arrive in the order of ranks, which is the order of rows of one process
    torch.testing.assert_close(buffers(run)["queue"], expected[1]["queue"], atol=1e-5, rtol=1e-4)


def test_the_penalty_and_the_repeats_take_part(expected: Expected, tmp_path: Path) -> None:
    column = train_toy(tmp_path / "run", "--method.penalty", "0")
    assert max(abs(a - b) for a, b in zip(column, expected[0], strict=True)) > 1e-4


COMMAND = """
import sys
from pathlib import Path
from tests.engine.test_contracts import train_toy
train_toy(Path(sys.argv[1]), *sys.argv[2:])
"""


@pytest.mark.parametrize("stage", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_toy_run_resumes_to_the_bit(
    stage: int | None, expected: Expected, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [] if stage is None else ["--deepspeed", str(ds_json(tmp_path, stage))]
    saving = ["--checkpoint.every", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(run), *options, *saving], env=environment, cwd=tmp_path
    )
    deadline = time.time() + 60
    while not (run / "checkpoints" / "step-6").exists() and time.time() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run(
        [sys.executable, "-c", RESUME, str(run)], env=environment, cwd=tmp_path, check=True
    )
    whole = tmp_path / "whole"
    subprocess.run(
        [sys.executable, "-c", COMMAND, str(whole), *options, *saving],
        env=environment, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert losses(run) == losses(whole)
    for name, value in buffers(whole).items():
        assert torch.equal(buffers(run)[name], value), name


RESUME = """
import sys
from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.trainer import Trainer
Trainer(prepare(cli.parse(["--resume", sys.argv[1]])), ()).run()
"""
