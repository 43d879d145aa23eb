from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.probes import heads as heads_module
from ssgear.evaluation.probes.heads import Heads, cosine, shuffled_batches
from ssgear.evaluation.probes.sgd import linear_probe_sgd, sgd_probe

CPU = torch.device("cpu")


def problem(rows: int = 700, width: int = 13, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    centers = torch.randn(classes, width, generator=generator)
    return 3 * centers[labels] + 2 * torch.randn(rows, width, generator=generator) + 9, labels


def test_every_head_takes_the_steps_of_sgd_alone() -> None:
    x, y = problem()
    heads = Heads(13, 5, lrs=(0.01, 0.3), weight_decays=(0.0, 0.01, 0.2), device=CPU)
    alone = [nn.Linear(13, 5, dtype=torch.float64) for _ in heads.grid]
    optimizers = []
    for layer, (lr, decay) in zip(alone, heads.grid, strict=True):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizers.append(
            torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        )
    for step in range(12):
        rows = slice(31 * step, 31 * step + 31)
        features, factor = (x[rows] - 9) / 4, (1 + math.cos(math.pi * step / 12)) / 2
        heads.step(features, y[rows], cosine(step, 12))
        for layer, optimizer, (lr, _) in zip(alone, optimizers, heads.grid, strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(features.double()), y[rows]).backward()
            optimizer.step()
    for head, layer in enumerate(alone):
        expected = torch.cat([layer.weight.T, layer.bias[None]]).detach().float()
        torch.testing.assert_close(heads.weights[:, head], expected, atol=1e-4, rtol=1e-4)


def test_batches_hold_every_row_to_fit_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.arange(1003.0)[:, None] * torch.ones(1, 3)
    np.save(tmp_path / "x.npy", x.numpy())
    fit = torch.arange(1003) % 7 != 2
    monkeypatch.setattr(heads_module, "BLOCK_BYTES", 4 * 3 * 200)
    for rows in (x, FeatureFile(tmp_path / "x.npy")):
        epochs = [
            list(shuffled_batches(rows, fit, batch_size=50, seed=2, epoch=epoch))
            for epoch in (0, 0, 1)
        ]
        first, again, other = (torch.cat([index for _, index in epoch]) for epoch in epochs)
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert len(first) == len(first.unique()) == int(fit.sum()) // 50 * 50 and fit[first].all()
        assert all(len(index) == 50 for _, index in epochs[0])
        assert torch.equal(torch.cat([block for block, _ in epochs[0]])[:, 0], first.float())
        # a batch mixes rows from all over the file
        assert min(float(index.float().std()) for _, index in epochs[0]) > 80
    small = list(shuffled_batches(x[:9], fit[:9], batch_size=50, seed=2, epoch=0))
    assert [len(index) for _, index in small] == [8]


def test_frozen_features_of_a_tensor_or_a_file_are_learned(tmp_path: Path) -> None:
    x, y = problem()
    np.save(tmp_path / "x.npy", x[:500].numpy())
    result = sgd_probe(x[:500], y[:500], x[500:], y[500:], epochs=5, batch_size=32)
    assert result.protocol == "sgd" and result.num_train < 500 and result.top1 > 0.9
    args = FeatureFile(tmp_path / "x.npy"), y[:500], x[500:], y[500:]
    from_file = sgd_probe(*args, epochs=5, batch_size=32)
    assert from_file.top1 == pytest.approx(result.top1, abs=0.03)
    assert from_file == sgd_probe(*args, epochs=5, batch_size=32)
    one = sgd_probe(*args, epochs=2, lrs=(0.1,), weight_decays=(0.01,))
    assert one.num_train == 500 and one.l2 == 0.01


def test_the_head_is_chosen_on_rows_held_out() -> None:
    x, y = problem()
    result = sgd_probe(
        x[:500], y[:500], x[500:], y[500:], epochs=5, batch_size=32, lrs=(1e-9, 0.1),
        weight_decays=(0.0, 50.0),
    )  # fmt: skip
    assert result.l2 == 0.0 and result.top1 > 0.9


class Means(nn.Module):
    """Mean color of each quadrant of images in [0, 1] or uint8."""

    def forward(self, images: Tensor) -> Tensor:
        images = images.float() / (255 if images.dtype == torch.uint8 else 1)
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_the_augmented_protocol_learns_what_features_tell_and_repeats() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (300,), generator=generator)
    images = torch.randint(0, 60, (300, 3, 8, 8), generator=generator)
    images[torch.arange(300), labels] += 120
    args = (images[:200].byte(), labels[:200], images[200:].byte(), labels[200:])
    result = linear_probe_sgd(Means(), *args, epochs=3, batch_size=32)
    assert result.top1 > 0.95 and result.protocol == "sgd" and result.predicted.shape == (100, 3)
    assert linear_probe_sgd(Means(), *args, epochs=3, batch_size=32) == result


class Scaled(nn.Module):
    """Means of the channels, however large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * Means().forward(images)


def test_few_steps_are_enough_for_features_of_any_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    images = torch.randint(0, 60, (300, 3, 8, 8), generator=generator)
    images[torch.arange(300), labels] += 60
    args = (images[:200].byte(), labels[:200], images[200:].byte(), labels[200:])
    expected = linear_probe_sgd(Scaled(1.0), *args, epochs=3).predicted[:, 0]
    for scale in (1e-3, 1e3):
        predicted = linear_probe_sgd(Scaled(scale), *args, epochs=3).predicted[:, 0]
        assert torch.equal(predicted, expected)
    assert (expected == labels[200:]).float().mean() > 0.95


def test_bad_arguments_are_named() -> None:
    x, y = problem()
    with pytest.raises(ArgumentError, match="learning rates must be positive"):
        sgd_probe(x, y, x, y, lrs=(0.1, 0.0))
    with pytest.raises(ArgumentError, match=r"\(got 0 and 256\)"):
        sgd_probe(x, y, x, y, epochs=0)
    with pytest.raises(ArgumentError, match="one class"):
        sgd_probe(x, y * 0, x, y)
    x[3] = torch.nan
    with pytest.raises(DataError, match=r"train features: 1 of 700 images .* \(rows 3\)"):
        sgd_probe(x, y, x, y)
