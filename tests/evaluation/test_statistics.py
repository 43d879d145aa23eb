"""Intervals and paired tests against scipy, closed forms, and how often they cover the truth."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from ssgear.errors import ArgumentError
from ssgear.evaluation.similarity.retrieval import retrieve
from ssgear.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    paired,
    paired_figures,
    wilson,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 7), (7, 7), (8731, 10_000), (1, 333)])
def test_wilson_is_that_of_scipy(correct: int, total: int, confidence: float) -> None:
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson(correct, total, confidence=confidence) == pytest.approx(
        tuple(expected), abs=1e-12
    )
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (1, 0), (6, 0), (14, 5), (5, 14), (900, 801)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    total = only_a + only_b + 1237
    a, b = torch.zeros(2, total)
    a[:only_a] = 1
    b[only_a : only_a + only_b] = 1
    a[only_a + only_b :][:700] = b[only_a + only_b :][:700] = 1
    result = mcnemar(a, b)
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert result.p_value == pytest.approx(expected, rel=1e-9)
    assert result.difference == pytest.approx((only_a - only_b) / total)
    assert result.difference == pytest.approx(float(a.mean() - b.mean()), abs=1e-6)
    p, q = (only_a + 1) / (total + 2), (only_b + 1) / (total + 2)
    width = stats.norm.ppf(0.975) * math.sqrt((p + q - (p - q) ** 2) / (total + 2))
    assert result.interval == pytest.approx((p - q - width, p - q + width))
    swapped = mcnemar(b, a)
    assert swapped.p_value == result.p_value and swapped.difference == -result.difference


def test_intervals_of_a_paired_difference_cover_it() -> None:
    covered = real = 0
    rounds, count = 600, 151
    source = generator(1)
    for _ in range(rounds):
        u = torch.rand(count, generator=source)
        # a right and b wrong: 12 %, the reverse: 5 %, both right: 60 %
        a = ((u < 0.12) | (u > 0.4)).long()
        b = ((u > 0.12) & (u < 0.17) | (u > 0.4)).long()
        low, high = mcnemar(a, b).interval
        covered += low <= 0.07 <= high
        a, b = ((u < 0.09) | (u > 0.4)).long(), ((u > 0.09) & (u < 0.18) | (u > 0.4)).long()
        real += mcnemar(a, b).p_value < 0.05
    assert 0.93 <= covered / rounds <= 0.98
    assert real / rounds <= 0.05  # an exact test is never too sure


def test_a_bootstrap_of_many_values_is_the_normal_interval() -> None:
    values = torch.rand(5003, generator=generator(), dtype=torch.float64).square()
    low, high = bootstrap_mean(values, resamples=8000)
    width = stats.norm.ppf(0.975) * float(values.std()) / math.sqrt(len(values))
    assert low == pytest.approx(float(values.mean()) - width, abs=0.05 * width)
    assert high == pytest.approx(float(values.mean()) + width, abs=0.05 * width)
    assert bootstrap_mean(values) == bootstrap_mean(values.clone())
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    expected = stats.bootstrap(
        (values.numpy(),),
        lambda x, axis: x.mean(axis),
        rng=0,
        n_resamples=2000,
        batch=100,
        method="percentile",
    ).confidence_interval
    assert bootstrap_mean(values) == pytest.approx(tuple(expected), abs=0.1 * width)


def test_groups_weigh_the_same_and_keep_their_variance() -> None:
    # the variance of a mean over 40 classes of 3 images and one of 200 has a closed form
    values = torch.rand(320, generator=generator(), dtype=torch.float64)
    groups = torch.cat((torch.arange(120) % 40, torch.full((200,), 50)))
    parts = [values[groups == label] for label in [*range(40), 50]]
    middle = sum(float(part.mean()) for part in parts) / 41
    deviation = math.sqrt(sum(float(part.var()) / len(part) for part in parts)) / 41
    shuffled = torch.randperm(320, generator=generator())
    low, high = bootstrap_mean(values[shuffled], groups=groups[shuffled], resamples=8000)
    assert (low + high) / 2 == pytest.approx(middle, abs=0.1 * deviation)
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.05)
    alone = bootstrap_mean(torch.tensor([0.25, 0.75]), groups=torch.tensor([0, 1]))
    assert alone == (0.5, 0.5)


def test_bootstrap_intervals_cover_the_mean_over_classes() -> None:
    covered, rounds = 0, 400
    source = generator(2)
    groups = torch.arange(90) % 6
    means = torch.linspace(0.2, 0.8, 6, dtype=torch.float64)
    for number in range(rounds):
        noise = torch.rand(90, generator=source, dtype=torch.float64) - 0.5
        low, high = bootstrap_mean(means[groups] + noise, groups=groups, resamples=400, seed=number)
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / rounds <= 0.98


def test_a_difference_of_averages_is_paired() -> None:
    source = generator(3)
    common = torch.rand(301, generator=source)
    noise = 0.01 * torch.randn(301, generator=source)
    result = bootstrap_difference(common + 0.01 + noise, common)
    assert result.method == "bootstrap"
    assert result.difference == pytest.approx(0.01 + float(noise.mean()), abs=1e-6)
    assert result.p_value == pytest.approx(2 / 2001) and result.interval[0] > 0
    width = 1.96 * float(noise.std()) / math.sqrt(301)
    assert result.interval[1] - result.interval[0] == pytest.approx(2 * width, rel=0.1)
    same = bootstrap_difference(common, common)
    assert same.difference == 0 and same.interval == (0, 0) and same.p_value == 1


def test_p_values_of_equal_subjects_are_uniform() -> None:
    source = generator(4)
    p_values = [
        bootstrap_difference(
            torch.rand(60, generator=source), torch.rand(60, generator=source), resamples=400
        ).p_value
        for _ in range(400)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3, sorted(p_values)[::40]


def test_the_test_follows_the_values() -> None:
    right = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert paired(right, right.flip(0)).method == "McNemar"
    assert paired(right, right.flip(0), groups=torch.tensor([0, 0, 1, 1])).method == "bootstrap"
    assert paired(right / 2, right).method == "bootstrap"


def test_values_that_are_absent_are_left_out() -> None:
    values, nan = torch.rand(31, generator=generator()), torch.tensor([torch.nan])
    groups = torch.arange(31) % 3
    more, more_groups = torch.cat((nan, values, nan)), torch.cat((groups[:1], groups, groups[:1]))
    assert bootstrap_mean(more, groups=more_groups) == bootstrap_mean(values, groups=groups)
    assert paired(more, more / 2) == paired(values, values / 2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"wilson: must be 0 <= correct <= total \(got 3 of 2\)"
    ):
        wilson(3, 2)
    with pytest.raises(ArgumentError, match=r"confidence: must be between 0 and 1 \(got 95\)"):
        wilson(1, 2, confidence=95)
    with pytest.raises(ArgumentError, match="needs at least one value, all finite"):
        bootstrap_mean(torch.tensor([torch.nan]))
    with pytest.raises(ArgumentError, match=r"values of shape \(3,\) and groups of shape \(2,\)"):
        bootstrap_mean(torch.ones(3), groups=torch.zeros(2))
    with pytest.raises(ArgumentError, match="groups must be int64 and at least 0"):
        bootstrap_mean(torch.ones(3), groups=torch.tensor([0, -1, 0]))
    with pytest.raises(ArgumentError, match=r"resamples: must be positive \(got 0\)"):
        bootstrap_mean(torch.ones(3), resamples=0)
    with pytest.raises(ArgumentError, match="same test set"):
        mcnemar(torch.ones(3), torch.ones(2))
    with pytest.raises(ArgumentError, match="mcnemar: values must be 0 or 1"):
        mcnemar(torch.full((3,), 0.5), torch.ones(3))
    with pytest.raises(ArgumentError, match="for one subject only"):
        paired(torch.tensor([0.5, torch.nan]), torch.tensor([0.5, 0.5]))


def test_intervals_of_retrieval_cover_what_other_images_would_give() -> None:
    source = generator(3)
    labels = torch.arange(120) % 4
    centres = 0.7 * torch.randn(4, 12, generator=source)

    def precisions() -> torch.Tensor:
        features = centres[labels] + torch.randn(120, 12, generator=source)
        return retrieve(features, labels, ks=()).per_query

    draws = [precisions() for _ in range(240)]
    truth = float(torch.stack(draws).mean())  # classes are of one size
    intervals = [bootstrap_mean(draw, groups=labels, mutual=True, resamples=400) for draw in draws]
    covered = sum(low <= truth <= high for low, high in intervals)
    assert covered / 240 > 0.9, covered
    pairs = zip(draws[::2], draws[1::2], strict=True)
    real = sum(paired_figures(a, b, labels=labels).p_value < 0.05 for a, b in pairs)
    assert real / 120 < 0.1, real  # of two subjects that do not differ


def test_figures_are_compared_as_they_are_taken() -> None:
    source = generator(4)
    labels = torch.tensor([0] * 90 + [1] * 10)
    a, b = torch.rand(2, 100, generator=source)
    means = [(values[:90].mean() + values[90:].mean()) / 2 for values in (a, b)]
    result = paired_figures(a, b, labels=labels)
    assert result.method == "bootstrap"
    assert result.difference == pytest.approx(float(means[0] - means[1]), abs=1e-6)
    assert paired_figures((a > 0.5).byte(), (b > 0.5).byte(), labels=labels).method == "McNemar"
