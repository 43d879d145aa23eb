"""Checkpoints of other versions: callbacks by name, and what differs told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback
from ssgear.engine.trainer import Trainer
from ssgear.errors import CheckpointError
from ssgear.storage import checkpoint
from tests.engine.training import column, train

SHORT = (
    "--model.norm", "batch", "--optim.batch-size", "16", "--optim.epochs", "1",
    "--optim.warmup-epochs", "0",
)  # fmt: skip


class Counter(Callback):
    """Has state."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Another(Counter):
    """Has state too."""


class Plain(Callback):
    """Has none."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was saved at its second step."""
    run = tmp_path_factory.mktemp("run") / "run"
    train(run, *SHORT, "--optim.max-steps", "2", callbacks=(Counter(5), Counter(7)))
    return run


def resume(saved: Path, folder: Path, *callbacks: Callback, change: Any = None) -> Path:
    """Resume a copy of the run, whose rank's file `change` has been through."""
    run = folder / "run"
    shutil.copytree(saved, run)
    step = checkpoint.find_latest(run)
    if change is not None:
        state = checkpoint.load_tensors(step / "rank-0.pt")
        change(state)
        checkpoint.save_tensors(step / "rank-0.pt", state)
        meta = json.loads((step / "manifest.json").read_text())["meta"]
        (step / "manifest.json").unlink()
        checkpoint.write_manifest(step, meta)
    Trainer(prepare(cli.parse(["--resume", str(run), "--optim.max-steps", "3"])), callbacks).run()
    return run


def notes(run: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["message"]) for line in lines if line["kind"] == "note"]


def test_states_are_found_by_name(saved: Path, tmp_path: Path) -> None:
    """Whatever stands before, is new, or is there no more."""
    first, second, new = Counter(), Counter(), Another(3)
    run = resume(saved, tmp_path / "more", new, Plain(), first, second)
    assert (first.count, second.count, new.count) == (5, 7, 3)
    assert notes(run) == [(2, "step-2 knows nothing of Another: it starts anew")]
    run = resume(saved, tmp_path / "fewer", first)
    assert first.count == 5 and notes(run) == []


def of_another_version(state: dict[str, Any]) -> None:
    state["callbacks"]["Counter"] = {"number": 5}


def with_another_buffer(state: dict[str, Any]) -> None:
    state["buffers"]["encoder.zzz"] = torch.zeros(3)


def with_a_longer_buffer(state: dict[str, Any]) -> None:
    name = next(name for name in sorted(state["buffers"]) if name.endswith("running_mean"))
    state["buffers"][name] = torch.zeros(1, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            of_another_version,
            r"the state of Counter is another version's \('count'\); continue with",
        ),
        (with_another_buffer, r"its buffer encoder.zzz is \[3\], that of this version's .* none;"),
        (with_a_longer_buffer, r"running_mean is \[1, 3\], that of this version's method \[\d+\]"),
    ],
)
def test_what_differs_is_named(
    change: Callable[[dict[str, Any]], None], said: str, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        resume(saved, tmp_path, Counter(), Counter(), change=change)
    assert "\n" not in str(caught.value) and "step-2: " in str(caught.value)


def test_times_go_on_where_they_were_saved(saved: Path, tmp_path: Path) -> None:
    meta = checkpoint.read_manifest(checkpoint.find_latest(saved))
    assert {"data", "encoder", "loss", "optimizer"} <= meta["time_s"].keys()
    assert 0 < sum(meta["time_s"].values()) <= meta["seconds"]
    run = resume(saved, tmp_path, Counter(), Counter())
    seconds = column(run, "seconds")
    assert len(seconds) == 3 and seconds == sorted(seconds)
    assert seconds[2] > meta["seconds"]  # the pieces before it are included
    later = checkpoint.read_manifest(checkpoint.find_latest(run))
    for part, spent in meta["time_s"].items():
        assert later["time_s"][part] >= spent, part
    assert later["seconds"] > meta["seconds"]
