from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssgear.errors import CheckpointError
from ssgear.storage import checkpoint


def complete(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"step-{step}"
    checkpoint.save_tensors(folder / "group-a.pt", {"w": torch.arange(5.0), "n": 3})
    checkpoint.write_manifest(folder, {"step": step})
    return folder


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    folder = complete(tmp_path, 7)
    assert checkpoint.read_manifest(folder) == {"step": 7}
    loaded = checkpoint.load_tensors(folder / "group-a.pt")
    assert torch.equal(loaded["w"], torch.arange(5.0)) and loaded["n"] == 3


def test_checkpoints_are_ordered_by_step_and_others_are_no_checkpoints(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        complete(tmp_path, step)
    (tmp_path / "checkpoints" / "step-x").mkdir()
    (tmp_path / "checkpoints" / ".partial-step-500-1").mkdir()
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(tmp_path)] == [
        9,
        20,
        100,
    ]
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint.find_latest(tmp_path).name == "step-100"


def test_damage_names_the_file_and_the_older_checkpoint(tmp_path: Path) -> None:
    complete(tmp_path, 1)
    folder = complete(tmp_path, 2)
    with (folder / "group-a.pt").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(CheckpointError, match=r"group-a\.pt: has 10 bytes.*step-1"):
        checkpoint.read_manifest(folder)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    folder = complete(tmp_path, 2)
    data = bytearray((folder / "group-a.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "group-a.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        checkpoint.read_manifest(folder)
