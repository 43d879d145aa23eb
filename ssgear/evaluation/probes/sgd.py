"""Linear probes by SGD, on features of random crops and flips or on fixed ones.

A grid of heads (learning rates x weight decays) is trained in one pass; the best one is chosen on
rows of the training set that are held out, never on the test set. Features pass through a fixed or
running standardization, so that one grid suits every encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec
from ssgear.errors import ArgumentError
from ssgear.evaluation.features import extract
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.probes.checks import (
    check_features,
    check_finite,
    check_labels,
    finite_blocks,
)
from ssgear.evaluation.probes.heads import Heads, cosine, shuffled_batches
from ssgear.evaluation.probes.result import ProbeResult, best_classes, probe_result
from ssgear.evaluation.probes.standardized import features_device, held_out, scaling_of
from ssgear.kernels import philox

LRS = (0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT_DECAYS = (0.0, 1e-4)
EVERY = 10
"""One of so many training rows of a class is held out."""
IMAGES = 500
"""Images that are encoded at a time."""


def _fit_rows(labels: Tensor, num_heads: int) -> Tensor:
    """Return which rows to fit [N] bool: all for one head, which needs no choice."""
    fit = ~held_out(labels, EVERY)
    return torch.ones_like(fit) if num_heads == 1 else fit


def sgd_probe(
    train: Rows,
    train_labels: Tensor,
    test: Rows,
    test_labels: Tensor,
    *,
    epochs: int = 20,
    lrs: Sequence[float] = LRS,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | None = None,
) -> ProbeResult:
    """Train linear heads by SGD with cosine decay on frozen features of any size.

    Features are standardized by the mean and deviation of the training rows and read in blocks:
    once for those, once an epoch, and once for the choice of a head on every tenth row of a class.

    Args:
        train: Features [N, F].
        train_labels: int64 [N] from 0.
        test: Features [M, F].
        test_labels: int64 [M].
        epochs: Passes over the features.
        lrs: Learning rates of the grid.
        weight_decays: Weight decays of the grid.
        batch_size: Rows of a step.
        seed: Order of the rows.
        device: Where heads are trained; by default where the training features are.

    Raises:
        ArgumentError: shapes do not fit, one class only, or a setting is out of range.
        DataError: a feature is NaN or infinite.
    """
    check_features("SGD probe", train, train_labels, test, test_labels)
    _check_schedule(epochs, batch_size)
    device = device or features_device(train)
    labels = train_labels.cpu()
    classes = int(labels.max()) + 1
    heads = Heads(train.shape[1], classes, lrs=lrs, weight_decays=weight_decays, device=device)
    fit = _fit_rows(labels, len(heads.grid))
    scaling = scaling_of(train, device)
    steps, step = max(1, int(fit.sum()) // batch_size) * epochs, 0
    for epoch in range(epochs):
        for features, rows in shuffled_batches(
            train, fit, batch_size=batch_size, seed=seed, epoch=epoch
        ):
            heads.step(scaling(features.to(device)), labels[rows].to(device), cosine(step, steps))
            step += 1
    right = torch.zeros(len(heads.grid), dtype=torch.int64, device=device)
    if not fit.all():
        for start, block in finite_blocks(train, "train", device=device):
            held = (~fit[start : start + len(block)]).nonzero()[:, 0]
            right += heads.right(scaling(block[held.to(device)]), labels[start + held].to(device))
    best = int(right.argmax())
    predicted = [
        best_classes(heads.scores(scaling(block))[:, best]).cpu()
        for _, block in finite_blocks(test, "test", device=device)
    ]
    return _result(predicted, test_labels, heads, best, fit)


def linear_probe_sgd(
    encoder: nn.Module,
    train_images: Rows,
    train_labels: Tensor,
    test_images: Rows,
    test_labels: Tensor,
    *,
    epochs: int = 20,
    lrs: Sequence[float] = LRS,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | None = None,
) -> ProbeResult:
    """Train linear heads by SGD with cosine decay on features of random crops and flips.

    The frozen encoder runs once a batch for all heads. Heads see features through a batch norm
    without weights. Every tenth row of a class is held out, uncropped, to choose a head.

    Args:
        encoder: Takes uint8 or [0, 1] images and returns features [n, F].
        train_images: uint8 [N, 3, S, S].
        train_labels: int64 [N] from 0.
        test_images: uint8 [M, 3, S, S].
        test_labels: int64 [M].
        epochs: Passes over the training images.
        lrs: Learning rates of the grid.
        weight_decays: Weight decays of the grid.
        batch_size: Images of a step.
        seed: Order, crops and flips.
        device: Where to compute; by default the CPU.

    Raises:
        ArgumentError: labels are missing, of one class, or a setting is out of range.
        DataError: a feature is NaN or infinite.
    """
    check_labels("SGD probe", train_labels, test_labels)
    _check_schedule(epochs, batch_size)
    device = device or torch.device("cpu")
    labels = train_labels.cpu()
    classes, size = int(labels.max()) + 1, train_images.shape[-1]
    width = extract(encoder, test_images[:2], device=device).shape[1]
    heads = Heads(width, classes, lrs=lrs, weight_decays=weight_decays, device=device)
    fit = _fit_rows(labels, len(heads.grid))
    fit_rows = fit.nonzero()[:, 0]
    # features are frozen: means over all batches, free of where running ones start, which few
    # steps would not forget; any encoder's scale is far above eps
    norm = nn.BatchNorm1d(width, eps=1e-10, momentum=None, affine=False, device=device)
    # the encoder normalizes: views stay in [0, 1]
    spec = AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
    steps, step = max(1, len(fit_rows) // batch_size) * epochs, 0
    for epoch in range(epochs):
        shuffle = philox.permutation(philox.derive_key(seed, "probe", epoch), len(fit_rows))
        for start in range(0, len(shuffle) - len(shuffle) % batch_size or 1, batch_size):
            rows = fit_rows[shuffle[start : start + batch_size]]
            views = augment(
                train_images[rows].to(device), spec, size=size, seed=seed, epoch=epoch,
                indices=rows.to(device), view=0,
            )  # fmt: skip
            features = extract(encoder, views, device=device)
            check_finite(features, "train")
            heads.step(norm(features.to(device)), labels[rows].to(device), cosine(step, steps))
            step += 1
    norm.eval()

    def encode(images: Rows, rows: Tensor, what: str) -> Tensor:
        features = extract(encoder, images[rows], device=device)
        check_finite(features, what)
        normalized: Tensor = norm(features.to(device))
        return normalized

    right = torch.zeros(len(heads.grid), dtype=torch.int64, device=device)
    for rows in _parts((~fit).nonzero()[:, 0]):
        right += heads.right(encode(train_images, rows, "train"), labels[rows].to(device))
    best = int(right.argmax())
    predicted = [
        best_classes(heads.scores(encode(test_images, rows, "test"))[:, best]).cpu()
        for rows in _parts(torch.arange(len(test_labels)))
    ]
    return _result(predicted, test_labels, heads, best, fit)


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + IMAGES] for start in range(0, len(rows), IMAGES)]


def _check_schedule(epochs: int, batch_size: int) -> None:
    if epochs < 1 or batch_size < 2:
        raise ArgumentError(
            f"SGD probe: epochs must be at least 1 and the batch at least 2 (got {epochs} and "
            f"{batch_size})"
        )


def _result(
    predicted: list[Tensor], labels: Tensor, heads: Heads, best: int, fit: Tensor
) -> ProbeResult:
    return probe_result(
        torch.cat(predicted), labels, l2=heads.grid[best][1], protocol="sgd",
        num_train=int(fit.sum()), converged=bool(heads.weights.isfinite().all()),
    )  # fmt: skip
