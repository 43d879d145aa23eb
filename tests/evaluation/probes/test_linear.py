from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation import linear_probe
from ssgear.evaluation.features import rows as rows_module
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.probes import standardized
from ssgear.evaluation.probes.linear import SoftmaxFit
from ssgear.evaluation.probes.standardized import TrainingBlocks, held_out, scaling_of

CPU = torch.device("cpu")


def problem(classes: int = 7, rows: int = 903, width: int = 31) -> tuple[Tensor, Tensor]:
    x, y = make_classification(
        rows, width, n_informative=12, n_classes=classes, class_sep=0.9, random_state=3
    )
    return torch.from_numpy(x).float(), torch.from_numpy(y).long()


def loss(weights: Tensor, x: Tensor, y: Tensor, l2: float) -> float:
    scores = x.double() @ weights[:-1] + weights[-1]
    penalty = l2 / 2 * weights[:-1].square().sum()
    return float(nn.functional.cross_entropy(scores, y) + penalty)


@pytest.mark.parametrize("l2", [1e-5, 0.01, 3.0])
def test_the_fit_is_sklearns(l2: float) -> None:
    x, y = problem()
    data = TrainingBlocks(x * 3 + 50, y, held_out(y), 7, CPU)
    minimum = SoftmaxFit(data, 7).minimize(l2, None, iterations=500, tolerance=1e-5)
    assert minimum.converged and minimum.evaluations < 80
    scaled = ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).numpy()
    # sklearn minimizes C * sum of losses + |W|^2 / 2
    theirs = LogisticRegression(C=1 / (l2 * len(x)), max_iter=5000, tol=1e-8).fit(scaled, y)
    coefficients = np.concatenate([theirs.coef_.T, theirs.intercept_[None]])
    x64 = torch.from_numpy(scaled)
    expected = loss(torch.from_numpy(coefficients), x64, y, l2)
    assert loss(minimum.point, x64, y, l2) == pytest.approx(expected, abs=1e-6)
    ours = (x64 @ minimum.point[:-1] + minimum.point[-1]).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(scaled), atol=2e-3)


def test_a_given_l2_gives_sklearns_predictions() -> None:
    x, y = problem()
    result = linear_probe(x[:600], y[:600], x[600:], y[600:], l2=0.02)
    scaling = scaling_of(x[:600], CPU)
    train, test = scaling(x[:600]).numpy(), scaling(x[600:]).numpy()
    theirs = LogisticRegression(C=1 / (0.02 * 600), max_iter=2000, tol=1e-8).fit(train, y[:600])
    expected = torch.from_numpy(theirs.predict_proba(test)).topk(5).indices
    assert result.l2 == 0.02 and (result.predicted != expected).float().mean() < 0.01


def test_features_in_a_file_are_walked_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = problem()
    np.save(tmp_path / "train.npy", x[:700].numpy())
    np.save(tmp_path / "test.npy", x[700:].numpy())
    expected = linear_probe(x[:700], y[:700], x[700:], y[700:])
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 4 * 31 * 233)
    monkeypatch.setattr(standardized, "BLOCK_BYTES", 4 * 31 * 233)
    monkeypatch.setattr(standardized, "KEPT_BYTES", 1000)
    train, test = FeatureFile(tmp_path / "train.npy"), FeatureFile(tmp_path / "test.npy")
    result = linear_probe(train, y[:700], test, y[700:])
    assert result.l2 == expected.l2 and result.converged
    assert (result.predicted != expected.predicted).float().mean() < 0.02


def test_every_fifth_of_a_class_is_held_out() -> None:
    labels = torch.tensor([2, 0, 0, 2, 0, 0, 0, 2, 0, 2, 2, 0])
    assert held_out(labels).nonzero()[:, 0].tolist() == [6, 10]  # the fifth 0 and the fifth 2


def test_a_fit_that_is_cut_short_says_so() -> None:
    x, y = problem()
    fit = SoftmaxFit(TrainingBlocks(x, y, held_out(y), 7, CPU), 7)
    assert not fit.minimize(1e-5, None, iterations=2, tolerance=1e-5).converged


def test_accuracy_is_that_of_sklearns_best_c() -> None:
    x, y = problem()
    train, test = (x[:600] * 5 + 2, y[:600]), (x[600:] * 5 + 2, y[600:])
    result = linear_probe(*train, *test)
    a, b = (scaling_of(train[0], CPU)(features).numpy() for features in (train[0], test[0]))
    best = max(
        LogisticRegression(C=c, max_iter=1000).fit(a, train[1]).score(b, test[1])
        for c in (0.001, 0.01, 0.1, 1)
    )
    assert result.top1 == pytest.approx(best, abs=0.03)
    assert result.top1 <= result.top5 <= 1 and result.protocol == "lbfgs"
    assert result.predicted.shape == (303, 5) and result.num_train == 600 and result.converged
    assert float((result.predicted[:, 0] == test[1]).double().mean()) == result.top1
    assert linear_probe(*train, *test) == result  # nothing is drawn


def test_l2_matters_where_there_are_more_features_than_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(460, 400, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(460, generator=generator) > 0).long()
    result = linear_probe(x[:60], y[:60], x[60:], y[60:])
    assert result.l2 > 1e-3


def test_fewer_than_five_classes_and_constant_features() -> None:
    x, y = problem(classes=3)
    x[:, 4] = 1.0
    result = linear_probe(x[:500], y[:500], x[500:], y[500:])
    assert result.top5 == 1.0 and result.top1 > 0.5


def test_bad_arguments_are_named() -> None:
    x, y = problem()
    with pytest.raises(ArgumentError, match=r"train features \(903, 31\) and labels \(902,\)"):
        linear_probe(x, y[1:], x, y)
    with pytest.raises(ArgumentError, match="widths 31 and 30"):
        linear_probe(x, y, x[:, 1:], y)
    with pytest.raises(ArgumentError, match="one class"):
        linear_probe(x, y * 0, x, y)
    x[4, 0] = torch.inf
    with pytest.raises(DataError, match=r"test features: 1 of 100 images .* \(rows 4\)"):
        linear_probe(x[100:], y[100:], x[:100], y[:100])


@pytest.mark.parametrize("scale", [1e-20, 1e-7, 1e20])
def test_features_of_any_scale_have_one_fit(scale: float) -> None:
    x, y = problem()
    x[:, 3] = 5.0  # constant
    expected = linear_probe(x[:700], y[:700], x[700:], y[700:], l2=0.01)
    scaled = x * scale
    result = linear_probe(scaled[:700], y[:700], scaled[700:], y[700:], l2=0.01)
    assert (result.predicted[:, 0] == expected.predicted[:, 0]).float().mean() > 0.99
    scaling = scaling_of(scaled, CPU)
    assert float(scaling.scale_F[3]) == 0 and int((scaling.scale_F > 0).sum()) == 30


def test_a_weight_of_l2_near_0_can_be_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(30, 30, generator=generator)).Q
    x = torch.randn(1000, 30, generator=generator) * torch.logspace(0, -6, 30) @ turn
    y = (x[:, 0] > 0).long()
    assert linear_probe(x[:500], y[:500], x[500:], y[500:], l2=1e-8).top1 > 0.9


@pytest.mark.parametrize("l2", [1e-5, 5.6e-5, 1e-3])
def test_little_l2_on_few_rows_is_fitted_to_the_end(l2: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 0.15 * torch.randn(10, 500, generator=generator)
    labels = torch.arange(200) % 10
    test_labels = torch.randint(0, 10, (2000,), generator=generator)
    train = centers[labels] + torch.randn(200, 500, generator=generator)
    test = centers[test_labels] + torch.randn(2000, 500, generator=generator)
    result = linear_probe(train, labels, test, test_labels, l2=l2)
    mean, deviation = train.double().mean(0), train.double().std(0, correction=0)
    a, b = (((rows - mean) / deviation).numpy() for rows in (train, test))
    theirs = LogisticRegression(C=1 / (l2 * 200), max_iter=50000, tol=1e-9).fit(a, labels.numpy())
    expected = theirs.score(b, test_labels.numpy())
    assert result.converged and result.top1 == pytest.approx(expected, abs=0.002)
