from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssgear.distributed import World
from ssgear.errors import ArgumentError, DataError, StorageError
from ssgear.evaluation.features import stream
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.features.stream import batches, share_of, write_features

CPU = torch.device("cpu")


class Decoded:
    """Images that are made when they are asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.shape = tuple(images.shape)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        part = self.images[rows]
        self.reads.append(len(part))
        return part


class Means(nn.Module):
    """The mean of every channel, and a norm whose mode shows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.norm(images.float().mean((2, 3)))
        return features


def pictures(count: int = 23) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 5, 5), generator=generator, dtype=torch.uint8)


def test_features_of_a_file_are_those_of_the_whole(tmp_path: Path) -> None:
    encoder, images = Means().train(), pictures()
    rows = Decoded(images)
    write_features(encoder, rows, tmp_path / "f.npy", device=CPU, batch_size=5)
    assert encoder.training and encoder.norm.num_batches_tracked == 0
    with torch.no_grad():
        expected = encoder.eval()(images)
    assert torch.equal(FeatureFile(tmp_path / "f.npy")[:], expected)
    assert np.load(tmp_path / "f.npy").dtype == np.float32
    assert max(rows.reads) == 5  # never all at once
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


def test_batches_are_in_order_and_of_a_part(tmp_path: Path) -> None:
    images = pictures()
    for rows in (images, Decoded(images)):
        assert torch.equal(torch.cat([*batches(rows, 4)]), images)
        assert torch.equal(torch.cat([*batches(rows, 4, range(3, 12))]), images[3:12])
        assert [*batches(rows, 4, range(3, 3))] == []


def test_ranks_share_every_row_once() -> None:
    for size in (1, 2, 3, 7):
        parts = [share_of(23, World(rank=rank, size=size)) for rank in range(size)]
        assert [row for part in parts for row in part] == [*range(23)]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    class Damaged(Decoded):
        def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
            if self.reads:
                raise DataError("a.png: cannot be read")
            return super().__getitem__(rows)

    with pytest.raises(DataError, match=r"a\.png"):
        write_features(Means(), Damaged(pictures()), tmp_path / "f.npy", device=CPU, batch_size=4)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(ArgumentError, match="no images"):
        write_features(Means(), pictures(0), tmp_path / "f.npy", device=CPU)


def test_a_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream.os, "posix_fallocate", full)
    rows = Decoded(pictures())
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write_features(Means(), rows, tmp_path / "f.npy", device=CPU)
    assert rows.reads == [1] and not [*tmp_path.iterdir()]
