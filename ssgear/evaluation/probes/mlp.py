"""Probe with one hidden layer: what a linear one cannot read of features (docs/math.md 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.probes.checks import check_features, finite_blocks
from ssgear.evaluation.probes.heads import cosine, shuffled_batches
from ssgear.evaluation.probes.result import ProbeResult, best_classes, probe_result
from ssgear.evaluation.probes.standardized import features_device, scaling_of
from ssgear.kernels import philox


def mlp_probe(
    train: Rows,
    train_labels: Tensor,
    test: Rows,
    test_labels: Tensor,
    *,
    seed: int,
    hidden: int = 512,
    epochs: int = 20,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> ProbeResult:
    """Train one hidden layer on frozen features of any size, and test.

    The protocol is fixed, nothing is chosen: features standardized by the training rows; a hidden
    layer of 512 units with ReLU; AdamW at 1e-3 with cosine decay to 0 and weight decay 0.05, also
    of biases; 20 epochs in batches of 256.

    Args:
        train: Features [N, F].
        train_labels: int64 [N] from 0.
        test: Features [M, F].
        test_labels: int64 [M].
        seed: First weights and order of the rows.
        hidden: Width of the hidden layer.
        epochs: Passes over the features.
        lr: Learning rate at the start.
        weight_decay: Decoupled weight decay.
        batch_size: Rows of a step.
        device: Where to train; by default where the training features are.

    Raises:
        ArgumentError: shapes do not fit, one class only, or a setting is not positive.
        DataError: a feature is NaN or infinite.
    """
    check_features("MLP probe", train, train_labels, test, test_labels)
    if min(hidden, epochs, batch_size, lr) <= 0 or weight_decay < 0:
        raise ArgumentError(
            f"MLP probe: settings must be positive (got hidden={hidden}, epochs={epochs}, lr={lr}, "
            f"weight_decay={weight_decay}, batch_size={batch_size})"
        )
    device = device or features_device(train)
    labels = train_labels.cpu()
    scaling = scaling_of(train, device)
    layers = build_layers(train.shape[1], hidden, int(labels.max()) + 1, seed).to(device)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=lr, weight_decay=weight_decay)
    everything = torch.ones(len(labels), dtype=torch.bool)
    steps, step = max(1, len(labels) // batch_size) * epochs, 0
    for epoch in range(epochs):
        for features, rows in shuffled_batches(
            train, everything, batch_size=batch_size, seed=seed, epoch=epoch
        ):
            optimizer.param_groups[0]["lr"] = lr * cosine(step, steps)
            scores = layers(scaling(features.to(device)))
            loss = nn.functional.cross_entropy(scores, labels[rows].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
    with torch.no_grad():
        predicted = [
            best_classes(layers(scaling(block))).cpu()
            for _, block in finite_blocks(test, "test", device=device)
        ]
    return probe_result(
        torch.cat(predicted), test_labels, l2=weight_decay, protocol="mlp", num_train=len(labels),
        converged=all(bool(weight.isfinite().all()) for weight in layers.parameters()),
    )  # fmt: skip


def build_layers(width: int, hidden: int, classes: int, seed: int) -> nn.Sequential:
    """Return the layers: He-normal weights from the seed in the first, zeros in the second."""
    first = nn.Linear(width, hidden)
    layers = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, classes))
    generator = torch.Generator().manual_seed(philox.derive_key(seed, "mlp") % 2**63)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.zero_()
        first.weight.normal_(0, (2 / width) ** 0.5, generator=generator)
    return layers
