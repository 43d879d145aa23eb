"""How sure a figure is: confidence intervals, and whether two subjects really differ.

    low, high = wilson(correct=8731, total=10_000)         # an accuracy
    low, high = bootstrap_mean(ap_Q, groups=labels_Q, mutual=True)  # a mean average precision
    result = paired(a_N, b_N)                              # two subjects, the same test images
    result.difference, result.interval, result.p_value

Wilson's score interval (1927); McNemar's test (1947) in its exact form, with the adjusted Wald
interval of Bonett & Price (2012) for the difference; the percentile bootstrap (Efron 1979),
rescaled so that small groups keep their variance (Rao & Wu 1988). A value that is NaN is left out.

In retrieval an image stands in the figure twice: as a query, and among the images that the others
have to find. A statistic of pairs deviates twice as much as its values by image alone would tell
(Hoeffding 1948): values that are `mutual` have that spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.results import Interval

_ELEMENTS = 1 << 22
"""Values that are drawn at a time."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The difference a - b of two subjects on the same test images."""

    difference: float
    """Difference of the two figures."""
    interval: Interval
    """Confidence interval of the difference."""
    p_value: float
    """Probability of a difference this large or larger if there were none, two-sided."""
    method: str
    """Name of the test: `McNemar` or `bootstrap`."""


def wilson(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Return the confidence interval of an accuracy, in [0, 1]; for no images it is [0, 1].

    Raises:
        ArgumentError: the counts are not 0 <= correct <= total.
    """
    if not 0 <= correct <= total:
        raise ArgumentError(f"wilson: must be 0 <= correct <= total (got {correct} of {total})")
    z = _quantile(confidence)
    if total == 0:
        return 0.0, 1.0
    share = correct / total
    middle = share + z**2 / (2 * total)
    width = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z**2 / total
    low = 0.0 if correct == 0 else (middle - width) / scale
    high = 1.0 if correct == total else (middle + width) / scale
    return low, high


def bootstrap_mean(
    values: Tensor,
    *,
    groups: Tensor | None = None,
    mutual: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the confidence interval of a mean of values [N] over test images.

    Args:
        values: One per image, such as the average precision of a query.
        groups: Classes [N] int64: the figure is then the mean over classes of their means, and
            images are redrawn within their class. A class of one image adds no spread.
        mutual: Whether values are of queries among the same images, such as average precisions.
        resamples: How often images are redrawn.
        confidence: Probability that the interval holds the figure.
        seed: Seed of the draws.

    Raises:
        ArgumentError: shapes differ, there is no value, or a value is infinite.
    """
    values, groups = _present("bootstrap_mean", values, groups)
    return _interval(_resampled(values, groups, resamples, seed, mutual=mutual), confidence)


def mcnemar(a: Tensor, b: Tensor, *, confidence: float = 0.95) -> Paired:
    """Compare the accuracies of two subjects, [N] each: 1 where an image is right and 0 if not.

    The p-value is that of the exact binomial test of the images that only one of them has right.

    Raises:
        ArgumentError: shapes differ, or there are other values than 0 and 1.
    """
    _check_pair("mcnemar", a, b)
    if not _is_binary(a) or not _is_binary(b):
        raise ArgumentError("mcnemar: values must be 0 or 1; use bootstrap_difference for others")
    total = len(a)
    only_a = int(((a == 1) & (b == 0)).sum())
    only_b = int(((a == 0) & (b == 1)).sum())
    # Bonett & Price: one image more in each of the two cells, so that none is empty
    share_a, share_b = (only_a + 1) / (total + 2), (only_b + 1) / (total + 2)
    middle = share_a - share_b
    variance = (share_a + share_b - middle**2) / (total + 2)
    width = _quantile(confidence) * math.sqrt(variance)
    return Paired(
        difference=(only_a - only_b) / total,
        interval=(max(-1.0, middle - width), min(1.0, middle + width)),
        p_value=_binomial_p(min(only_a, only_b), only_a + only_b),
        method="McNemar",
    )


def bootstrap_difference(
    a: Tensor,
    b: Tensor,
    *,
    groups: Tensor | None = None,
    mutual: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare means of values [N] of two subjects on the same images; see `bootstrap_mean`.

    The p-value is twice the share of resamples on the other side of 0, and 2 / (resamples + 1) at
    the least; an interval at 95 % holds 0 where p > 0.05.

    Raises:
        ArgumentError: shapes differ, or a value is present for one subject only.
    """
    _check_pair("bootstrap_difference", a, b)
    if not torch.equal(a.isnan(), b.isnan()):
        raise ArgumentError(
            "bootstrap_difference: some images have a value (not NaN) for one subject only"
        )
    values, groups = _present("bootstrap_difference", a.double() - b.double(), groups)
    means = _resampled(values, groups, resamples, seed, mutual=mutual)
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Paired(
        difference=float(torch.stack([part.mean() for part in _parts(values, groups)]).mean()),
        interval=_interval(means, confidence),
        p_value=min(1.0, 2 * (1 + beyond) / (1 + resamples)),
        method="bootstrap",
    )


def paired(
    a: Tensor,
    b: Tensor,
    *,
    groups: Tensor | None = None,
    mutual: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare two subjects: `mcnemar` for values 0 and 1 by themselves, else the bootstrap."""
    if groups is None and not mutual and _is_binary(a) and _is_binary(b):
        return mcnemar(a, b, confidence=confidence)
    return bootstrap_difference(
        a, b, groups=groups, mutual=mutual, resamples=resamples, confidence=confidence, seed=seed
    )


def paired_figures(a: Tensor, b: Tensor, *, labels: Tensor | None = None) -> Paired:
    """Compare a figure of two subjects by its values of the same images [N].

    Accuracies (0 or 1 by image) are compared by `mcnemar`. Other values are average precisions of
    retrieval: where labels [N] are known, their mean is taken within each class and over classes.
    """
    if _is_binary(a) and _is_binary(b):
        return mcnemar(a, b)
    return bootstrap_difference(a, b, groups=labels, mutual=True)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence: must be between 0 and 1 (got {confidence})")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _is_binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _check_pair(function: str, a: Tensor, b: Tensor) -> None:
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ArgumentError(
            f"{function}: values of shape {tuple(a.shape)} and {tuple(b.shape)}; both must be [N], "
            "one per image of the same test set"
        )


def _present(function: str, values: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the values that are not NaN, float64, and their groups."""
    if values.ndim != 1 or (groups is not None and groups.shape != values.shape):
        shape = "" if groups is None else f" and groups of shape {tuple(groups.shape)}"
        raise ArgumentError(
            f"{function}: values of shape {tuple(values.shape)}{shape}; give [N], one per image"
        )
    values = values.detach().double().cpu()
    present = ~values.isnan()
    if not bool(present.any()) or bool(values.isinf().any()):
        raise ArgumentError(f"{function}: needs at least one value, all finite")
    if groups is not None:
        groups = groups.cpu()[present]
        if groups.dtype != torch.int64 or int(groups.min()) < 0:
            raise ArgumentError(f"{function}: groups must be int64 and at least 0")
    return values[present], groups


def _parts(values: Tensor, groups: Tensor | None) -> list[Tensor]:
    """Return the values of each group."""
    if groups is None:
        return [values]
    order = groups.argsort(stable=True)
    counts = [count for count in groups.bincount().tolist() if count]
    return list(torch.split(values[order], counts))


def _resampled(
    values: Tensor, groups: Tensor | None, resamples: int, seed: int, *, mutual: bool
) -> Tensor:
    """Return the figure of each resample [R], float64."""
    if resamples < 1:
        raise ArgumentError(f"resamples: must be positive (got {resamples})")
    generator = torch.Generator().manual_seed(seed)
    means = torch.zeros(resamples, dtype=torch.float64)
    parts = _parts(values, groups)
    for part in parts:
        count, middle = len(part), part.mean()
        # a mean of n redrawn values varies by (n - 1) / n of what it should
        scale = math.sqrt(count / (count - 1)) if count > 1 else 0.0
        scale *= 2 if mutual else 1
        step = max(1, _ELEMENTS // count)
        for start in range(0, resamples, step):
            shape = (min(step, resamples - start), count)
            drawn = part[torch.randint(count, shape, generator=generator)].mean(1)
            means[start : start + step] += middle + scale * (drawn - middle)
    return means / len(parts)


def _interval(means: Tensor, confidence: float) -> Interval:
    """Return the percentiles that cut off equal shares at both ends."""
    _quantile(confidence)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _binomial_p(fewer: int, total: int) -> float:
    """Return the two-sided p-value of `fewer` heads of `total` tosses of a fair coin."""
    counts = torch.arange(fewer + 1, dtype=torch.float64)
    logarithms = (
        math.lgamma(total + 1)
        - (counts + 1).lgamma()
        - (total - counts + 1).lgamma()
        - total * math.log(2)
    )
    return min(1.0, 2 * float(logarithms.logsumexp(0).exp()))
