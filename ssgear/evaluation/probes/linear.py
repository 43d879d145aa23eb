"""Linear probe on frozen features (docs/math.md 4).

`linear_probe` is multinomial logistic regression to convergence by L-BFGS, the L2 weight chosen on
a split of the training set. `linear_probe_sgd` is the field's protocol: a linear layer trained by
SGD on features of random crops and flips.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec
from ssgear.errors import ArgumentError
from ssgear.evaluation.features import extract
from ssgear.evaluation.probes.result import ProbeResult, accuracies, best_classes, probe_result
from ssgear.kernels import philox

L2_GRID = tuple(10.0**power for power in np.arange(-5.0, 1.01, 0.75))
"""Weights of |W|^2 / 2 in the mean loss that are tried, on standardised features."""
HELD_OUT = 0.2


def linear_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> ProbeResult:
    """Fit on all training rows with the L2 that does best on a fifth of them, and test.

    Features are [N, F] of any floating type, labels [N] int64 from 0. Deterministic.
    """
    _check(train_features, train_labels, test_features, test_labels)
    train, test = _standardised(train_features, test_features)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    labels = train_labels.cpu()
    fit, held = _split(labels)
    l2, start = _choose(train[fit], labels[fit], train[held], labels[held], classes)
    weights, converged = _fit(train, labels, classes, l2, start)
    return probe_result(
        best_classes(_logits(test, weights)), test_labels.cpu(), l2=l2, protocol="lbfgs",
        num_train=len(labels), converged=converged,
    )  # fmt: skip


def _check(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> None:
    for features, labels, what in ((train, train_labels, "train"), (test, test_labels, "test")):
        if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
            raise ArgumentError(
                f"linear probe: {what} features {tuple(features.shape)} and labels "
                f"{tuple(labels.shape)}; give [N, F] and [N]"
            )
        if len(labels) == 0 or int(labels.min()) < 0:
            raise ArgumentError(f"linear probe: {what} labels must be there, and 0 or above")
    if train.shape[1] != test.shape[1]:
        raise ArgumentError(f"linear probe: widths {train.shape[1]} and {test.shape[1]} differ")
    if int(train_labels.min()) == int(train_labels.max()):
        raise ArgumentError("linear probe: the training labels hold one class; two are needed")


def _standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Bring every feature to mean 0 and deviation 1 on the training rows."""
    train, test = train.detach().float().cpu(), test.detach().float().cpu()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), torch.zeros(()))
    return (train - mean) * scale, (test - mean) * scale


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows to fit and rows held out: every fifth of each class, in the order given."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero()[:, 0]
        held[rows[int(1 / HELD_OUT) - 1 :: int(1 / HELD_OUT)]] = True
    if not held.any():  # too few rows of each class to hold any out
        return torch.arange(len(labels)), torch.arange(len(labels))
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def _choose(
    fit: Tensor, labels: Tensor, held: Tensor, answers: Tensor, classes: int
) -> tuple[float, Tensor]:
    """Walk from strong to weak regularisation, each fit starting at the one before.

    The walk ends after three fits without a better accuracy on the rows held out. Returns the best
    weight and what was fitted with it.
    """
    best, chosen, kept, weights = -1.0, L2_GRID[-1], None, None
    for l2 in reversed(L2_GRID):
        weights, _ = _fit(fit, labels, classes, l2, weights, iterations=60)
        top1, _ = accuracies(best_classes(_logits(held, weights)), answers)
        if top1 > best:
            best, chosen, kept, misses = top1, l2, weights, 0
        else:
            misses += 1
            if misses == 3:
                break
    assert kept is not None
    return float(chosen), kept


def _fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    l2: float,
    start: Tensor | None,
    iterations: int = 300,
) -> tuple[Tensor, bool]:
    """Minimise mean cross-entropy + l2/2 |W|^2 over W [F + 1, C]; the bias row is not decayed.

    Returns W, and whether the tolerance was met within the iterations.
    """
    width = features.shape[1]
    start = torch.zeros(width + 1, classes) if start is None else start
    # classes before rows: a softmax over the outer dimension is vectorised (1.6x in all, 2 cores)
    answers = nn.functional.one_hot(labels, classes).T.float().contiguous()

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).float().view(width + 1, classes)
        log_p = torch.addmm(weights[-1, :, None], weights[:-1].T, features.T).log_softmax(0)
        error = (log_p.exp() - answers) / len(labels)
        decayed = (error @ features).T + l2 * weights[:-1]
        gradient = torch.cat([decayed, error.sum(1)[None]])
        value = -(log_p * answers).sum() / len(labels) + l2 / 2 * (weights[:-1] ** 2).sum()
        return float(value), gradient.double().flatten().numpy()

    found = minimize(
        value_and_gradient,
        start.double().flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "gtol": 1e-5, "ftol": 1e-9},
    )
    return torch.from_numpy(found.x).float().view(width + 1, classes), bool(found.success)


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return torch.addmm(weights[-1], features, weights[:-1])


def linear_probe_sgd(
    encoder: nn.Module,
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 20,
    lr: float = 0.1,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | None = None,
) -> ProbeResult:
    """Train a linear layer by SGD with cosine decay on features of random crops and flips.

    Images are uint8 [N, 3, S, S]; the encoder takes uint8 and stays frozen. The layer sees
    features through a batch norm without weights, so that one learning rate suits every encoder.
    """
    device = device or torch.device("cpu")
    # the encoder normalises: views stay in [0, 1]
    spec = AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
    size = train_images.shape[-1]
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    width = extract(encoder, test_images[:2], device=device).shape[1]
    layer = nn.Linear(width, classes, device=device)
    nn.init.zeros_(layer.weight)
    norm = nn.BatchNorm1d(width, affine=False, device=device)
    optimizer = torch.optim.SGD([*layer.parameters()], lr=lr, momentum=0.9)
    steps = max(1, len(train_images) // batch_size) * epochs
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = philox.permutation(philox.derive_key(seed, "probe", epoch), len(train_images))
        for start in range(0, len(order) - len(order) % batch_size or 1, batch_size):
            rows = order[start : start + batch_size]
            views = augment(
                train_images[rows].to(device), spec, size=size, seed=seed, epoch=epoch,
                indices=rows.to(device), view=0,
            )  # fmt: skip
            features = extract(encoder, views, device=device).to(device)
            logits = layer(norm(features))
            loss = nn.functional.cross_entropy(logits, train_labels[rows].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            cosine.step()
    norm.eval()
    with torch.no_grad():
        logits = layer(norm(extract(encoder, test_images, device=device).to(device))).cpu()
    return probe_result(
        best_classes(logits), test_labels.cpu(), l2=0.0, protocol="sgd",
        num_train=len(train_labels), converged=True,
    )  # fmt: skip
