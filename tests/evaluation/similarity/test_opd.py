"""OPD against the definition: the least distance over rotations, by scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.similarity import products
from ssgear.evaluation.similarity.cka import cka
from ssgear.evaluation.similarity.opd import opd, opd_matrix
from tests.evaluation.similarity.test_cka import features, rotation


def dense(a: Tensor, b: Tensor) -> float:
    width = max(a.shape[1], b.shape[1])
    x, y = (np.pad(rows.double().numpy(), ((0, 0), (0, width - rows.shape[1]))) for rows in (a, b))
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    best, _ = orthogonal_procrustes(x, y)
    return float(np.linalg.norm(x @ best - y) ** 2)


@pytest.mark.parametrize(("count", "shift"), [(203, 0.0), (37, 3.0), (7, 0.0), (101, 1000.0)])
def test_it_is_the_least_distance(count: int, shift: float) -> None:
    a, b = features(count, shift)
    expected = dense(a, b)
    assert opd(a, b) == pytest.approx(expected, abs=1e-6)
    assert opd(b, a) == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected < 1.9


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e35])
def test_features_of_any_scale_have_one_distance(scale: float) -> None:
    a, b = features()
    assert opd(a * scale, b) == pytest.approx(dense(a, b), abs=1e-6)
    assert cka(a * scale, b / 7) == pytest.approx(cka(a, b), abs=1e-6)


def test_a_rotated_scaled_and_moved_copy_is_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features()
    turned = (a.double() @ rotation(13) * 250 + torch.arange(13) * 10).float()
    assert 0 <= opd(a, turned) < 1e-6
    assert opd(turned, b) == pytest.approx(opd(a, b), abs=1e-6)
    wide = torch.randn(1501, 257, generator=torch.Generator().manual_seed(0))
    assert opd(wide, (wide.double() @ rotation(257)).float() + 1000) < 1e-6
    monkeypatch.setattr(products, "LONGEST", 17)
    assert opd(a, b) == pytest.approx(dense(a, b), abs=1e-6)


def test_a_matrix_is_every_pair() -> None:
    a, b = features()
    matrix = opd_matrix([a, b, a[:, :4]], [b, a])
    expected = [[opd(x, y) for y in (b, a)] for x in (a, b, a[:, :4])]
    assert torch.allclose(matrix, torch.tensor(expected, dtype=torch.float64), atol=1e-7)


def test_bad_input_is_refused() -> None:
    a, b = features()
    with pytest.raises(ArgumentError, match="opd: features of 202 and 203 images"):
        opd(a, b[1:])
    with pytest.raises(ArgumentError, match="opd: a: all images have the same features"):
        opd(torch.ones(203, 2), b)
    with pytest.raises(DataError, match=r"opd: b features: 1 of 203 images have"):
        opd(a, b.index_fill(0, torch.tensor(5), torch.inf))
