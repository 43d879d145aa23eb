from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssgear.views.jobs.thumbnails import grid, pairs, write_preview


def flat(*values: int, side: int) -> torch.Tensor:
    """Images of one colour each."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)


def test_sources_stand_beside_their_views(tmp_path: Path) -> None:
    shown = pairs(
        flat(10, 20, 30, 40, 50, 60, side=8), flat(11, 21, 31, 41, 51, 61, side=24), [5, *range(5)]
    )
    assert shown.shape == (6, 2, 128, 128, 3)
    sheet = grid(shown)
    assert sheet.shape == (2 * 132 + 4, 4 * 260 + 4, 3)
    middles = [
        [sheet[4 + 132 * row + 64, 4 + 260 * c + x, 0] for x in (64, 192)]
        for row in (0, 1)
        for c in range(4)
    ]
    assert np.array(middles).tolist() == [
        [60, 61], [10, 11], [20, 21], [30, 31], [40, 41], [50, 51], [255, 255], [255, 255],
    ]  # fmt: skip
    write_preview(tmp_path, shown)
    with Image.open(tmp_path / "preview.jpg") as opened:
        assert opened.size == (4 * 260 + 4, 2 * 132 + 4)
    assert os.listdir(tmp_path) == ["preview.jpg"]


def test_views_without_sources_and_no_place_to_write(tmp_path: Path) -> None:
    shown = pairs(None, flat(*range(40), side=8), range(40))
    assert shown.shape == (16, 1, 128, 128, 3)
    assert grid(shown).shape == (4 * 132 + 4, 4 * 132 + 4, 3)
    write_preview(tmp_path / "nowhere", shown)
    assert not (tmp_path / "nowhere").exists()
