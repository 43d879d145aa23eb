from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from ssgear.data.order.view_mix import Mix, Policy, ViewMix, mixed_order
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


COUNTS = (3, 0, 1, 2, 5)
"""Stored views of five real images; rows 0 to 4 are those, 5 and 6 synthetic, 7 to 17 stored."""


def view_mix(policy: Policy, probability: float, num_views: int = 2) -> ViewMix:
    count = torch.tensor(COUNTS)
    return ViewMix(
        policy=policy,
        probability=probability,
        num_views=num_views,
        first=7 + count.cumsum(0) - count,
        count=count,
        upscaled=torch.tensor([18, 19, -1, 20, 21]),
    )


def chosen(mix: ViewMix, epoch: int = 0, seed: int = 3, stream: str = "") -> tuple[Tensor, Tensor]:
    index = torch.arange(7).repeat(600)
    return mix.choose(index, torch.arange(len(index)), seed=seed, stream=stream, epoch=epoch)


OWN: dict[int, set[int]] = {
    0: {7, 8, 9}, 1: set(), 2: {10}, 3: {11, 12}, 4: {13, 14, 15, 16, 17}, 5: set(), 6: set(),
}  # fmt: skip
"""The rows of each image's stored views."""


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("policy", ["second-only", "any"])
def test_a_view_is_stored_as_often_as_asked_and_each_of_them_as_often(
    policy: Policy, probability: float
) -> None:
    rows, generated = chosen(view_mix(policy, probability, num_views=3))
    index = torch.arange(7).repeat(600)
    assert rows.shape == generated.shape == (3, 4200)
    assert torch.equal(rows[~generated], index.expand(3, -1)[~generated])
    for view in range(3):
        may = policy == "any" or view == 1
        for image, stored in OWN.items():
            seen = rows[view][(index == image) & generated[view]]
            # seven standard deviations of a binomial of 600 draws
            expected = 600 * probability * (may and bool(stored))
            spread = 7 * (expected * (1 - probability)) ** 0.5
            assert abs(len(seen) - expected) <= spread, (view, image, len(seen), expected)
            assert set(seen.tolist()) == (stored if expected else set())
            for row in stored if expected else ():
                share = len(seen) / len(stored)
                assert abs(int((seen == row).sum()) - share) <= 7 * share**0.5, (view, row)
    if policy == "any":  # independent of each other
        both = float((generated[0] & generated[2])[index == 4].float().mean())
        assert abs(both - probability**2) < 0.15


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_a_pair_stands_for_two_views_or_for_none(probability: float) -> None:
    rows, generated = chosen(view_mix("pair", probability, num_views=3))
    index = torch.arange(7).repeat(600)
    taken = generated[1]
    assert not generated[0].any() and not generated[2].any()  # the original is upscaled, not made
    assert set(index[taken].tolist()) == {0, 3, 4}  # 1 has no view, 2 no upscaled original
    upscaled = torch.tensor([18, 19, -1, 20, 21, -1, -1])
    assert torch.equal(rows[0], torch.where(taken, upscaled[index], index))
    assert torch.equal(rows[1][~taken], index[~taken]) and torch.equal(rows[2], index)
    for row, image in zip(rows[1][taken].tolist(), index[taken].tolist(), strict=True):
        assert row in OWN[image]
    assert abs(float(taken.sum()) - 1800 * probability) <= 7 * (450 * (probability < 1)) ** 0.5


def test_the_choice_is_of_seed_stream_epoch_and_draw_alone() -> None:
    mix = view_mix("any", 0.5)
    rows, generated = chosen(mix)
    assert all(torch.equal(a, b) for a, b in zip(chosen(mix), (rows, generated), strict=True))
    for other in ({"epoch": 1}, {"seed": 4}, {"stream": "critic.1"}):
        assert not torch.equal(chosen(mix, **other)[0], rows)  # type: ignore[arg-type]
    # one row alone, and in any company
    index = torch.arange(7).repeat(600)
    some = torch.tensor([4193, 11, 700])
    alone, _ = mix.choose(index[some], some, seed=3, stream="", epoch=0)
    assert torch.equal(alone, rows[:, some])


def test_a_higher_probability_adds_stored_views_and_moves_none() -> None:
    few_rows, few = chosen(view_mix("any", 0.3))
    more_rows, more = chosen(view_mix("any", 0.6))
    assert bool((more | ~few).all()) and int(more.sum()) > int(few.sum())
    assert torch.equal(few_rows[few], more_rows[few])
    second, _ = chosen(view_mix("second-only", 0.6))
    assert torch.equal(second[1], more_rows[1])


def test_the_choices_are_those_of_earlier_versions() -> None:
    """A resumed run goes on with the views that it began with."""
    index = torch.tensor([0, 2, 3, 4, 0, 4])
    rows, _ = view_mix("any", 0.5).choose(index, torch.arange(6), seed=3, stream="", epoch=2)
    assert rows.tolist() == [[0, 10, 12, 15, 0, 4], [7, 2, 3, 4, 0, 15]]
