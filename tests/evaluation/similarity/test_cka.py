"""CKA against the dense formula of Song et al. in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.similarity import cka as room
from ssgear.evaluation.similarity import products
from ssgear.evaluation.similarity.cka import Kernel, cka, cka_matrix

KERNELS: tuple[Kernel, Kernel] = ("linear", "rbf")


def features(count: int = 203, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    common = torch.randn(count, 5, generator=generator)
    a = torch.cat((common, torch.randn(count, 8, generator=generator)), dim=1)
    b = torch.cat((common.tanh(), torch.randn(count, 2, generator=generator)), dim=1)
    return a + shift, b - shift


def rotation(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]


def dense_hsic(k: Tensor, m: Tensor) -> Tensor:
    n = len(k)
    k, m = k.clone().fill_diagonal_(0), m.clone().fill_diagonal_(0)
    ones = torch.ones(n, dtype=torch.float64)
    outer = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return ((k @ m).trace() + outer - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def dense_kernel(rows: Tensor, kernel: Kernel) -> Tensor:
    # moved, so that float64 keeps the digits of features far from 0, but not centred
    rows = rows.double() - rows[0].double()
    if kernel == "linear":
        return rows @ rows.T
    distances = (rows[:, None] - rows[None]).square().sum(2).sqrt()
    median = np.percentile(distances[distances > 0].numpy(), 50, method="lower")
    return (-distances.square() / (2 * median**2)).exp()


def dense(a: Tensor, b: Tensor, kernel: Kernel) -> float:
    k, m = dense_kernel(a, kernel), dense_kernel(b, kernel)
    return float(dense_hsic(k, m) / (dense_hsic(k, k) * dense_hsic(m, m)).sqrt())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("count", "shift"), [(203, 0.0), (37, 3.0), (7, 0.0), (101, 1000.0)])
def test_it_is_the_dense_formula(count: int, shift: float, kernel: Kernel) -> None:
    a, b = features(count, shift)
    expected = dense(a, b, kernel)
    assert cka(a, b, kernel=kernel) == pytest.approx(expected, abs=1e-6)
    assert 0.02 < abs(expected) < 0.99


def test_blocks_of_any_size_and_files_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a, b = features()
    np.save(tmp_path / "a.npy", a.numpy())
    file = FeatureFile(tmp_path / "a.npy")
    expected = cka(a, b)
    for longest in (1, 17, 202):
        monkeypatch.setattr(products, "LONGEST", longest)
        assert cka(file, b) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rotation_scale_and_translation_change_nothing(kernel: Kernel) -> None:
    a, b = features()
    turned = (a.double() @ rotation(13) * 250 + torch.arange(13)).float()
    assert cka(turned, b, kernel=kernel) == pytest.approx(cka(a, b, kernel=kernel), abs=1e-5)
    assert cka(b, a, kernel=kernel) == pytest.approx(cka(a, b, kernel=kernel), abs=1e-6)
    assert cka(turned * 1e-6, a, kernel=kernel) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_independent_features_are_near_0(kernel: Kernel) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(30, 2, 151, 301, generator=generator)
    values = [cka(a, b, kernel=kernel) for a, b in pairs]
    # the biased estimator says 0.66 of as many rows and columns
    assert abs(np.mean(values)) < 3 * np.std(values) / 30**0.5, values
    assert max(map(abs, values)) < 0.03


def test_minibatches_are_the_ratio_of_means(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(2001)
    # sorted, as test sets are by class: minibatches of neighbours would be unlike the whole
    order = a[:, 0].argsort()
    a, b = a[order], b[order]
    monkeypatch.setattr(room, "MINIBATCH", 5000)
    whole = cka(a, b, kernel="rbf")
    monkeypatch.setattr(room, "MINIBATCH", 250)
    parts = cka(a, b, kernel="rbf")
    assert parts == pytest.approx(whole, abs=0.01)
    assert cka(a, b, kernel="rbf") == parts
    assert cka(a, b, kernel="rbf", seed=1) != parts


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_matrix_is_every_pair(kernel: Kernel) -> None:
    a, b = features()
    layers = [a, a[:, 3:9].relu(), b]
    matrix = cka_matrix(layers, [b, a], kernel=kernel)
    assert matrix.shape == (3, 2) and matrix.dtype == torch.float64
    for i, x in enumerate(layers):
        for j, y in enumerate((b, a)):
            assert float(matrix[i, j]) == pytest.approx(cka(x, y, kernel=kernel), abs=1e-7)
    same = cka_matrix(layers, layers, kernel=kernel)
    assert torch.allclose(same, same.T) and torch.allclose(same.diagonal(), same.new_ones(3))


def test_bad_input_is_refused() -> None:
    a, b = features()
    with pytest.raises(ArgumentError, match="cka: features of 202 and 203 images; both sides need"):
        cka(a, b[1:])
    with pytest.raises(ArgumentError, match=r"cka: needs at least 4 images \(got 3\)"):
        cka(a[:3], b[:3])
    with pytest.raises(ArgumentError, match="cka: unknown kernel 'poly'; use linear or rbf"):
        cka(a, b, kernel="poly")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"cka: b: features of shape \(203,\)"):
        cka(a, b[:, 0])
    with pytest.raises(ArgumentError, match="cka: b: all images have the same features"):
        cka(a, b[:1].expand(203, -1))
    with pytest.raises(ArgumentError, match="cka: a, layer 1: the features of all images but one"):
        cka_matrix([a, torch.eye(203)[:, :1]], [b])
    with pytest.raises(ArgumentError, match="cka: a: most images have the same features"):
        cka(torch.eye(203)[:, :2], b, kernel="rbf")
    a[[19, 7], 2] = torch.nan
    with pytest.raises(
        DataError, match=r"cka: a features: 2 of 203 images have NaN .* \(rows 7, 19\)"
    ):
        cka(a, b)
