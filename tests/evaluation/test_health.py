from __future__ import annotations

import math

import pytest
import torch

from ssgear.evaluation.health import alignment, effective_rank, health, uniformity


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_alignment_and_uniformity_against_loops_in_float64() -> None:
    z1, z2 = rows(37, 5), rows(37, 5, seed=1)
    u1, u2 = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (z1, z2))
    expected = sum(float((a - b) @ (a - b)) for a, b in zip(u1, u2, strict=True)) / 37
    assert alignment(z1, z2) == pytest.approx(expected, abs=1e-5)
    pairs = [
        math.exp(-2 * float((u1[i] - u1[j]) @ (u1[i] - u1[j]))) for i in range(37) for j in range(i)
    ]
    assert uniformity(z1) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-5)


def test_effective_rank_counts_directions() -> None:
    basis = torch.linalg.qr(rows(50, 6)).Q  # six equal singular values
    assert effective_rank(basis) == pytest.approx(6, abs=1e-3)
    assert effective_rank(basis[:, :1].repeat(1, 9)) == pytest.approx(1, abs=1e-3)


def test_collapse_is_flagged_and_health_is_not() -> None:
    z = rows(200, 16)
    fine = health(z, z + 0.1 * rows(200, 16, 1), z)
    assert not fine.collapsed and fine.effective_rank > 10 and fine.sign == ""
    point = torch.ones(200, 16) + 1e-9 * z
    assert health(point, point, point).collapsed
    line = z[:, :1] * torch.ones(16) + 1e-4 * rows(200, 16, 2)
    flat = health(line, line, line)
    assert flat.collapsed and flat.sign == "effective rank 1.0"
    drawn = health(point, point, z)
    assert drawn.collapsed and drawn.sign.removeprefix("uniformity ") in ("0.000", "-0.000")


def test_embeddings_of_the_first_steps_are_not_judged_and_features_are() -> None:
    z = rows(200, 16)
    point = torch.ones(200, 16) + 1e-9 * z
    early = health(point, point, z, young=True)
    assert not early.collapsed and not early.sign
    assert early.uniformity == pytest.approx(0, abs=1e-5)
    assert health(point, point, point, young=True).collapsed


def test_many_rows_are_measured_on_some() -> None:
    z = rows(9000, 4)
    assert uniformity(z) == pytest.approx(uniformity(z[::2]), abs=0.02)
