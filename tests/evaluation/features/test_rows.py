from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssgear.errors import CheckpointError
from ssgear.evaluation.features.rows import FeatureFile, blocks


def test_a_file_returns_the_rows_that_a_tensor_does(tmp_path: Path) -> None:
    features = torch.randn(103, 7, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "features.npy", features.numpy())
    file = FeatureFile(tmp_path / "features.npy")
    assert len(file) == 103 and file.shape == (103, 7)
    some = torch.tensor([5, 102, 5, 0])
    assert torch.equal(file[some], features[some])
    assert torch.equal(file[90:200], features[90:])
    parts = [*blocks(file, size=10)]
    assert [start for start, _ in parts] == [*range(0, 103, 10)]
    assert torch.equal(torch.cat([block for _, block in parts]), features)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for name, content in {
        "a.npy": np.zeros((3, 4, 5), np.float32),
        "b.npy": np.zeros((3, 4), np.float64),
        "c.npy": np.array([object()], dtype=object),
    }.items():
        np.save(tmp_path / name, content)
        with pytest.raises(CheckpointError, match=f"{name}: not a file of features"):
            FeatureFile(tmp_path / name)
    (tmp_path / "d.npy").write_bytes(b"")
    for name in ("d.npy", "absent.npy"):
        with pytest.raises(CheckpointError, match=f"{name}: not a file of features"):
            FeatureFile(tmp_path / name)
