from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from ssgear.data.view_mix import Mix, mixed_order
from ssgear.kernels import philox

REAL, BATCH, STEPS = 53, 10, 5


def rows(num_synthetic: int, ratio: float, epoch: int, seed: int = 3, stream: str = "") -> Tensor:
    mix = Mix(num_real=REAL, num_synthetic=num_synthetic, ratio=ratio)
    return mixed_order(
        mix, seed=seed, stream=stream, epoch=epoch, steps=STEPS, batch_size=BATCH
    )  # fmt: skip


def places(num_synthetic: int, ratio: float, epochs: int) -> Tensor:
    parts = [rows(num_synthetic, ratio, epoch) for epoch in range(epochs)]
    return torch.cat(parts) % (REAL + num_synthetic)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 1 / 3, 0.5, 0.7, 0.99, 1.0])
def test_every_batch_has_its_share_to_within_a_row(ratio: float) -> None:
    synthetic = (places(31, ratio, 12) >= REAL).reshape(-1, BATCH).sum(1).cumsum(0)
    exact = Fraction(ratio).limit_denominator(10**6)
    expected = [int(exact * BATCH * (step + 1)) for step in range(12 * STEPS)]
    assert synthetic.tolist() == expected
    per_batch = synthetic.diff()
    assert int(per_batch.max()) - int(per_batch.min()) <= 1


@pytest.mark.parametrize("num_synthetic", [1, 3, 7, 40, 1000])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0])
def test_both_sets_are_walked_through_in_passes_without_repetition(
    num_synthetic: int, ratio: float
) -> None:
    seen = places(num_synthetic, ratio, 9)
    for chosen, size in ((seen[seen < REAL], REAL), (seen[seen >= REAL] - REAL, num_synthetic)):
        whole = chosen[: len(chosen) // size * size].reshape(-1, size)
        assert torch.equal(whole.sort(dim=1).values, torch.arange(size).expand(len(whole), size))
        rest = chosen[whole.numel() :]
        assert len(rest.unique()) == len(rest)


def test_passes_are_shuffled_anew() -> None:
    seen = places(20, 1.0, 4)[:80].reshape(4, 20)
    assert len({tuple(one) for one in seen.tolist()}) == 4
    assert all(one != sorted(one) for one in seen.tolist())


def test_no_number_comes_twice_in_an_epoch_though_images_do() -> None:
    for epoch in range(4):
        drawn = rows(3, 0.5, epoch)
        assert len(drawn.unique()) == len(drawn) == STEPS * BATCH
        counts = Counter((drawn[drawn % (REAL + 3) >= REAL] % (REAL + 3)).tolist())
        assert set(counts) == {REAL, REAL + 1, REAL + 2} and max(counts.values()) >= 8


def test_real_images_keep_the_order_that_they_have_alone() -> None:
    alone = philox.permutation(philox.derive_key(3, "order", "", 0), REAL)
    mixed = rows(31, 0.5, 0)
    assert torch.equal(mixed[mixed < REAL], alone[:25])


def test_synthetic_rows_stand_anywhere_in_a_batch() -> None:
    synthetic = (places(31, 0.3, 60) >= REAL).reshape(-1, BATCH).float().mean(0)
    assert float(synthetic.min()) > 0.18 and float(synthetic.max()) < 0.42


def test_rows_are_a_function_of_seed_stream_and_epoch() -> None:
    first = rows(31, 0.5, 2)
    assert torch.equal(rows(31, 0.5, 2), first)
    for other in (rows(31, 0.5, 3), rows(31, 0.5, 2, seed=4), rows(31, 0.5, 2, stream="critic.1")):
        assert not torch.equal(other, first)


def test_a_budget_does_not_depend_on_the_size_of_z() -> None:
    masks = [rows(size, 0.4, 1) % (REAL + size) >= REAL for size in (2, 50, 5000)]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
