"""Linear probe on frozen features: multinomial logistic regression (docs/math.md 4).

`linear_probe` minimizes mean cross-entropy + l2 / 2 |W|^2 on standardized features to convergence
by preconditioned L-BFGS; the weight of L2 is chosen on a split of the training set. The other
protocol of the field, SGD on features of crops and flips, stands in `sgd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.probes.checks import check_features, finite_blocks
from ssgear.evaluation.probes.lbfgs import Minimum, cholesky_preconditioner, minimize
from ssgear.evaluation.probes.result import ProbeResult, best_classes, probe_result
from ssgear.evaluation.probes.sgd import linear_probe_sgd
from ssgear.evaluation.probes.standardized import (
    Block,
    Scaling,
    TrainingBlocks,
    features_device,
    held_out,
)

__all__ = ["linear_probe", "linear_probe_sgd"]

L2_GRID = tuple(10.0**power for power in np.arange(-5.0, 1.01, 0.75))
"""Weights of |W|^2 / 2 in the mean loss that are tried, on standardized features."""
TOLERANCE = 1e-5
"""Largest entry of the gradient of the mean loss at convergence."""
PRECISE = 1 << 22
"""Training features (rows x width) up to which sums are float64 throughout."""
CHOICE_TOLERANCE = 1e-4
"""The same while the weight of L2 is chosen."""
ITERATIONS, CHOICE_ITERATIONS = 2000, 60
SAMPLE_ROWS = 20_000
"""Rows that the preconditioner is estimated from."""

Walk = Callable[[], Iterator[Block]]


def linear_probe(
    train_features: Rows,
    train_labels: Tensor,
    test_features: Rows,
    test_labels: Tensor,
    *,
    l2: float | None = None,
    device: torch.device | None = None,
) -> ProbeResult:
    """Fit a linear classifier to frozen features, and measure it on test rows.

    Multinomial logistic regression by L-BFGS, as Kornblith et al. (2019, arXiv 1805.08974) measure
    encoders. The weight of L2 is the one that does best on a fifth of the training rows, held out;
    the classifier is then fitted to all of them. No random numbers are used. Features that fit in
    1 GB stay in memory; larger ones are read at every pass.

    Args:
        train_features: [N, F] of any floating type; computed in float32, their mean in float64.
        train_labels: int64 [N] from 0.
        test_features: [M, F].
        test_labels: int64 [M] from 0; a class that training lacks counts as wrong.
        l2: Weight of |W|^2 / 2 in the mean loss; by default it is chosen.
        device: Where to fit; by default where the training features are.

    Returns:
        Accuracies in [0, 1], the best classes of every test row, and the weight of L2.

    Raises:
        ArgumentError: shapes do not fit, a label is missing or negative, or the training labels
            have one class only.
        DataError: a feature is NaN or infinite.
    """
    check_features("linear probe", train_features, train_labels, test_features, test_labels)
    device = device or features_device(train_features)
    labels = train_labels.cpu()
    classes = int(labels.max()) + 1
    held = held_out(labels)
    data = TrainingBlocks(train_features, labels, held, classes, device)
    fit = SoftmaxFit(data, classes)
    start = None
    if l2 is None:
        l2, start = _choose(fit, bool(held.any()))
    minimum = fit.minimize(l2, start, iterations=ITERATIONS, tolerance=TOLERANCE, to_the_end=True)
    predicted = predict(test_features, data.scaling, minimum.point.float(), device)
    return probe_result(
        predicted, test_labels, l2=l2, protocol="lbfgs", num_train=len(labels),
        converged=minimum.converged and (fit.is_precise or l2 >= TOLERANCE),
    )  # fmt: skip


def predict(test: Rows, scaling: Scaling, weights: Tensor, device: torch.device) -> Tensor:
    """Return the best classes [M, at most 5] of a layer [F + 1, C] on standardized features."""
    return torch.cat(
        [
            best_classes(torch.addmm(weights[-1], scaling(block), weights[:-1])).cpu()
            for _, block in finite_blocks(test, "test", device=device)
        ]
    )


def _choose(fit: SoftmaxFit, is_split: bool) -> tuple[float, Tensor]:
    """Walk from strong to weak regularization, each fit starting at the one before.

    The walk ends after three fits without a better accuracy on the rows held out; where classes are
    too small to hold any out, all rows stand in for both. Returns the best weight and its fit.
    """
    best, best_l2, misses = -1.0, L2_GRID[-1], 0
    best_weights = weights = torch.zeros(())
    for l2 in reversed(L2_GRID):
        weights = fit.minimize(
            l2, weights if weights.ndim else None, iterations=CHOICE_ITERATIONS,
            tolerance=CHOICE_TOLERANCE, splits=is_split,
        ).point  # fmt: skip
        top1 = fit.held_accuracy(weights, is_split)
        misses += 1
        if top1 > best:
            best, best_l2, best_weights, misses = top1, l2, weights, 0
        if misses == 3:
            break
    return float(best_l2), best_weights


class SoftmaxFit:
    """Fits of a softmax layer [F + 1, C] to blocks of features, one weight of L2 after another."""

    def __init__(self, data: TrainingBlocks, classes: int) -> None:
        """Estimate the preconditioner."""
        self.data, self.classes = data, classes
        self.width = int(data.rows.shape[1])
        self.spread = (1 - 1 / classes) / classes
        self.is_precise = len(data.rows) * self.width <= PRECISE
        self.dtype = torch.float64 if self.is_precise else torch.float32
        self._preconditioner = cholesky_preconditioner(self._sample())

    def minimize(
        self,
        l2: float,
        start: Tensor | None,
        *,
        iterations: int,
        tolerance: float,
        splits: bool = False,
        to_the_end: bool = False,
    ) -> Minimum:
        """Fit the layer on all rows, or without those held out; the bias row is not decayed.

        With little L2 the loss is flat along many directions, and a small gradient may still be far
        from the minimum: `to_the_end` bounds the distance where float64 can tell.
        """
        data = self.data
        if start is None:
            shape = self.width + 1, self.classes
            start = torch.zeros(shape, dtype=torch.float64, device=data.device)
        count = data.num_fit if splits else len(data.rows)

        def objective(weights: Tensor) -> tuple[float, Tensor]:
            value, gradient = self._sums(
                weights.to(self.dtype), lambda: data(fit=True, held=not splits)
            )
            gradient = gradient / count
            gradient[:-1] += l2 * weights[:-1]
            return float(value / count + l2 / 2 * weights[:-1].square().sum()), gradient

        return minimize(
            objective, start, precondition=self._preconditioner(self.spread, l2),
            tolerance=tolerance, iterations=iterations,
            convexity=l2 if to_the_end and self.is_precise else None,
        )  # fmt: skip

    def held_accuracy(self, weights: Tensor, is_split: bool) -> float:
        """Return the accuracy on the rows held out, or on all where none are."""
        weights, right, count = weights.float(), 0, 0
        for features, labels in self.data(fit=not is_split, held=True):
            scores = torch.addmm(weights[-1], features, weights[:-1])
            right += int((scores.argmax(1) == labels).sum())
            count += len(labels)
        return right / count

    def _sample(self) -> Tensor:
        parts: list[Tensor] = []
        for features, _ in self.data(fit=True, held=True):
            parts.append(features[: SAMPLE_ROWS - sum(map(len, parts))])
            if sum(map(len, parts)) >= SAMPLE_ROWS:
                break
        return torch.cat(parts)

    def _sums(self, weights: Tensor, walk: Walk) -> tuple[Tensor, Tensor]:
        """Return the sums of cross-entropy and of its gradient [F + 1, C] over rows, float64."""
        value = torch.zeros((), dtype=torch.float64, device=weights.device)
        gradient = torch.zeros_like(weights, dtype=torch.float64)
        kernel, bias = weights[:-1].T.contiguous(), weights[-1, :, None]
        for features, labels in walk():
            # classes before rows: a softmax over the outer dimension is vectorized (1.6x in all)
            features = features.to(self.dtype)
            log_p_Cn = torch.addmm(bias, kernel, features.T).log_softmax(0)
            value -= log_p_Cn.gather(0, labels[None]).double().sum()
            error_Cn = log_p_Cn.exp_()
            error_Cn.scatter_add_(0, labels[None], error_Cn.new_tensor(-1.0).expand(1, len(labels)))
            gradient[:-1] += (error_Cn @ features).T
            gradient[-1] += error_Cn.sum(1)
        return value, gradient
