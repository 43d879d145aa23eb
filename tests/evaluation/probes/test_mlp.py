from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.evaluation.probes.heads import shuffled_batches
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.probes.mlp import build_layers, mlp_probe


def rings(rows: int = 600) -> tuple[Tensor, Tensor]:
    """Return three rings in two of three features: no line separates them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    x = torch.randn(rows, 3, generator=generator)
    x[:, :2] = nn.functional.normalize(x[:, :2]) * (1 + 2 * labels[:, None])
    return x * 4 + 7, labels


def test_it_reads_what_a_line_cannot_and_repeats() -> None:
    x, y = rings()
    parts = x[:400], y[:400], x[400:], y[400:]
    result = mlp_probe(*parts, seed=3, hidden=64, epochs=30, lr=0.02, batch_size=80)
    assert result.top1 > 0.9 > 0.7 > linear_probe(*parts, l2=0.01).top1
    assert result.protocol == "mlp" and result.num_train == 400 and result.converged
    assert result == mlp_probe(*parts, seed=3, hidden=64, epochs=30, lr=0.02, batch_size=80)


def test_training_is_that_of_a_plain_loop_in_float64() -> None:
    x, y = rings(130)
    result = mlp_probe(
        x[:103], y[:103], x[103:], y[103:], seed=5, hidden=17, epochs=3, batch_size=20
    )
    layers = build_layers(3, 17, 3, 5).double()
    train = x[:103].double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / 15)) / 2
    )
    for epoch in range(3):
        fit = torch.ones(103, dtype=torch.bool)
        for _, rows in shuffled_batches(x[:103], fit, batch_size=20, seed=5, epoch=epoch):
            optimizer.zero_grad()
            scores = layers((train[rows] - mean) / deviation)
            nn.functional.cross_entropy(scores, y[rows]).backward()
            optimizer.step()
            schedule.step()
    scores = layers((x[103:].double() - mean) / deviation)
    assert torch.equal(result.predicted, scores.argsort(1, descending=True))


def test_bad_arguments_are_named() -> None:
    x, y = rings(40)
    with pytest.raises(ArgumentError, match="must be positive"):
        mlp_probe(x, y, x, y, seed=0, hidden=0)
    with pytest.raises(ArgumentError, match="MLP probe: the training labels hold one class"):
        mlp_probe(x, y * 0, x, y, seed=0)
