"""A run or reading that does not fit into memory: one line that says what makes it smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.engine.trainer import Trainer
from ssgear.errors import lacking_memory
from ssgear.evaluate import main as evaluate
from ssgear.train import main as train
from tests.engine.training import SMALL
from tests.faults.refusals import refused

FAR_TOO_MANY = 1 << 60


def failing_at(step: int, fail: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trainer fail in a step."""
    whole = Trainer._step

    def short(self: Trainer, batches: Any) -> None:
        if self.run_state.step + 1 == step:
            fail()
        whole(self, batches)

    monkeypatch.setattr(Trainer, "_step", short)


def ask_for_far_too_much() -> None:
    torch.empty(FAR_TOO_MANY)


def fill_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


def test_a_step_without_memory_names_what_makes_it_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_at(3, ask_for_far_too_much, monkeypatch)
    argv = [*SMALL, "--optim.batch-size", "16", "--checkpoint.every", "2"]
    line = refused(capsys, *argv, "--output", str(tmp_path / "run"))
    assert line.startswith("ssgear: step 3: not enough memory for 16 images of 32 px at once; the ")
    assert "the last checkpoint is step-2" in line
    assert "--optim.micro-batch 8 (the gradients of the whole batch)" in line
    assert "--optim.batch-size (now 16)" in line and "bf16" not in line


def test_what_cannot_be_split_is_not_told_to_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_at(1, fill_the_gpu, monkeypatch)
    argv = ["--method", "barlow-twins", *SMALL, "--output", str(tmp_path / "run")]
    line = refused(capsys, *argv)
    assert "step 1: not enough GPU memory for" in line and "no checkpoint was saved" in line
    assert "micro-batch" not in line


def test_a_model_that_no_memory_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model.name", f"4c5-{FAR_TOO_MANY}f"]
    line = refused(capsys, *SMALL, *model, "--output", str(tmp_path / "run"))
    assert "not enough memory to build the run; use a smaller --model.name" in line
    assert not (tmp_path / "run").exists()


def test_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def features(*args: Any, **kwargs: Any) -> None:
        fill_the_gpu()

    run = tmp_path / "run"
    short = ["--optim.max-steps", "1", "--eval.max-images", "100", "--eval.final-images", "100"]
    assert train([*SMALL, *short, "--output", str(run)]) == 0
    monkeypatch.setattr("ssgear.evaluation.images.EvalImages.load", features)
    assert refused(capsys, str(run), command=evaluate).endswith(
        "not enough GPU memory for these images; use fewer images by --max-images, or --device cpu"
    )


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "GPU memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "GPU memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), None),
        (RuntimeError("overflow in a counter of mine"), None),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception, lacking: str | None) -> None:
    assert lacking_memory(error) == lacking


@pytest.mark.parametrize("shape", [(FAR_TOO_MANY,), (1 << 40, 1 << 40)])
def test_the_words_are_those_of_this_torch(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(shape)
    assert lacking_memory(raised.value) == "memory"
