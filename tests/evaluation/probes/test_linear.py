from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.evaluation import linear_probe
from ssgear.evaluation.probes.linear import _fit, _standardised, linear_probe_sgd


def problem(classes: int = 7, rows: int = 903, width: int = 31) -> tuple[Tensor, Tensor]:
    x, y = make_classification(
        rows, width, n_informative=12, n_classes=classes, class_sep=0.9, random_state=3
    )
    return torch.from_numpy(x).float(), torch.from_numpy(y).long()


def test_the_fit_is_sklearns() -> None:
    x, y = problem()
    x, _ = _standardised(x, x)
    l2 = 0.01
    ours, converged = _fit(x, y, 7, l2, None)
    assert converged
    # sklearn minimises C * sum of losses + |W|^2 / 2
    theirs = LogisticRegression(C=1 / (l2 * len(x)), max_iter=2000, tol=1e-8).fit(x, y)
    p_ours = torch.addmm(ours[-1], x, ours[:-1]).softmax(1).numpy()
    np.testing.assert_allclose(p_ours, theirs.predict_proba(x), atol=2e-3)


def test_accuracy_is_that_of_sklearns_best_c() -> None:
    x, y = problem()
    train, test = (x[:600] * 5 + 2, y[:600]), (x[600:] * 5 + 2, y[600:])
    result = linear_probe(*train, *test)
    a, b = (each.numpy() for each in _standardised(train[0], test[0]))
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


class Means(nn.Module):
    """Mean colour of each quadrant of images in [0, 1] or uint8."""

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / (255 if images.dtype == torch.uint8 else 1)
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_the_sgd_protocol_learns_what_features_tell_and_repeats() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (300,), generator=generator)
    images = torch.randint(0, 60, (300, 3, 8, 8), generator=generator)
    images[torch.arange(300), labels] += 120
    args = (images[:200].byte(), labels[:200], images[200:].byte(), labels[200:])
    result = linear_probe_sgd(Means(), *args, epochs=3, batch_size=32)
    assert result.top1 > 0.95 and result.protocol == "sgd"
    assert linear_probe_sgd(Means(), *args, epochs=3, batch_size=32) == result
