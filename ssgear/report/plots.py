"""The map of the features: projection to two dimensions by t-SNE, and the scatter plot's geometry.

t-SNE is van der Maaten and Hinton 2008, exact, with the early exaggeration and the gains of the
authors' code. On a thousand points its dense products take 2 s on one core, where the tree of
scikit-learn's `TSNE` takes 10 to 20 s, and end at the same divergence (a test compares both).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ssgear.errors import ArgumentError
from ssgear.report.charts import UNITS, dots_path

MAX_POINTS = 1500
"""Most points of the map, for time (t-SNE) and size (the page)."""
MIN_HEIGHT = 640
"""Least height of the map in its units; it is UNITS wide."""
NUM_COLOURS = 10
"""Colours of the template; classes beyond them are squares, then both repeat."""
MAX_NAMED = 2 * NUM_COLOURS
"""Most classes that a colour and a shape tell apart; their names stand on the map."""
COMPONENTS = 50
"""Principal components that t-SNE sees."""
PERPLEXITY = 30.0
"""Effective number of neighbours of a point in t-SNE."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClassDots:
    """All points of one class as one path of zero-length strokes; `name_at` is in percent."""

    name: str
    colour: int
    square: bool
    count: int
    path: str
    name_at: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """The map: dots by class, and for a pointer over it (x, y, number of the image, its group)."""

    height: int
    groups: tuple[ClassDots, ...]
    points: tuple[tuple[int, int, int, int], ...]
    named: bool
    dropped: int


def scatter(
    xy: ArrayLike, labels: ArrayLike | None, classes: Sequence[str] | None
) -> Scatter | None:
    """Lay out the map; points that are not finite are dropped and counted. None if none is left."""
    points = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
    kept = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(kept):
        return None
    placed, height = _placed(points[kept])
    numbers = (
        np.zeros(len(kept), np.int64)
        if labels is None
        else np.asarray(labels).astype(np.int64)[kept]
    )
    present = sorted(set(numbers.tolist()))
    named = labels is not None and len(present) <= MAX_NAMED
    groups = []
    for number in present:
        own = placed[numbers == number]
        known = classes is not None and 0 <= number < len(classes)
        name = str(classes[number]) if classes is not None and known else f"class {number}"
        groups.append(
            ClassDots(
                name="image" if labels is None else name,
                colour=number % NUM_COLOURS,
                square=number // NUM_COLOURS % 2 == 1,
                count=len(own),
                path=dots_path((float(x), float(y)) for x, y in own),
                name_at=_densest(own, height) if named else None,
            )
        )
    group_of = {number: place for place, number in enumerate(present)}
    return Scatter(
        height=height,
        groups=_names_apart(groups),
        points=tuple(
            (int(x), int(y), int(image), group_of[number])
            for (x, y), image, number in zip(placed, kept, numbers.tolist(), strict=True)
        ),
        named=named,
        dropped=len(points) - len(kept),
    )


def _placed(points: Floats) -> tuple[NDArray[np.int64], int]:
    """Scale points into the map, longer side across (a projection has no up); give its height."""
    spans = np.ptp(points, axis=0)
    if spans[1] > spans[0]:
        points, spans = points[:, ::-1], spans[::-1]
    scale = 0.93 * UNITS / (float(spans[0]) or 1.0)
    height = max(MIN_HEIGHT, round(scale * float(spans[1]) + 0.07 * UNITS))
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    placed = (points - centre) * scale + [UNITS / 2, height / 2]
    return np.rint(placed).astype(np.int64), height


def _densest(points: NDArray[np.int64], height: int) -> tuple[float, float]:
    """Where a class is densest: its point with the nearest eighth neighbour, in percent."""
    distance = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)
    x, y = points[int(distance[:, min(8, len(points) - 1)].argmin())]
    return float(x) * 100 / UNITS, float(y) * 100 / height


def _names_apart(groups: list[ClassDots]) -> tuple[ClassDots, ...]:
    """Push names that would lie on each other apart, up and down, for a phone's narrow map."""
    line = 6.5  # percent of the height that a text line takes; a letter takes 2 of the width
    places = {i: list(group.name_at) for i, group in enumerate(groups) if group.name_at is not None}
    for _ in range(60):
        for i in places:
            for j in places:
                gap = places[j][1] - places[i][1]
                near = (
                    abs(places[j][0] - places[i][0]) < len(groups[i].name) + len(groups[j].name) + 3
                )
                if i != j and near and 0 <= gap < line and (gap > 0 or j > i):
                    places[i][1] -= (line - gap) / 2
                    places[j][1] += (line - gap) / 2
    named = {i: (round(x, 1), round(min(97.0, max(3.0, y)), 1)) for i, (x, y) in places.items()}
    return tuple(dataclasses.replace(group, name_at=named.get(i)) for i, group in enumerate(groups))


def project_2d(features: ArrayLike | torch.Tensor, *, seed: int = 0) -> NDArray[np.float32]:
    """Project features [n, F] (numpy or torch) to [n, 2], n at most MAX_POINTS.

    Rows are L2-normalised, reduced to their first principal components and laid out by t-SNE, which
    starts from the first two; below 10 points those two are the result. Rows that are not finite
    come back as NaN. The same features and `seed` (it parts rows that are equal) give the same map.
    """
    if isinstance(features, torch.Tensor):
        features = features.detach().to("cpu", torch.float64).numpy()
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ArgumentError(
            f"project_2d: features of shape {rows.shape}; give one row per image, [n, F]"
        )
    if len(rows) > MAX_POINTS:
        raise ArgumentError(f"project_2d: {len(rows)} points; give at most {MAX_POINTS}")
    result = np.full((len(rows), 2), np.nan, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if finite.any():
        rows = rows[finite] / np.maximum(np.linalg.norm(rows[finite], axis=1, keepdims=True), 1e-12)
        with _one_thread():
            result[finite] = _layout(_principal(rows), seed)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the same bits on any machine, and no waiting for busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _layout(scores: Floats, seed: int) -> Floats:
    spread = float(scores[:, 0].std())
    if spread < 1e-9:  # equal rows: what is left is rounding, no structure
        return np.zeros((len(scores), 2))
    if len(scores) < 10:
        return scores[:, :2]
    jitter = np.random.default_rng(seed).normal(size=(len(scores), 2))
    return tsne(affinities(scores), (scores[:, :2] / spread + 1e-2 * jitter) * 1e-4)


def _principal(rows: Floats) -> Floats:
    """Scores on the first principal components, at least two; the largest of each is positive."""
    centred = torch.from_numpy(rows - rows.mean(axis=0))
    left, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    scores: Floats = (left * scale)[:, :COMPONENTS].numpy()
    largest = scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])]
    scores = scores * np.where(largest < 0, -1.0, 1.0)
    return np.pad(scores, ((0, 0), (0, max(0, 2 - scores.shape[1]))))


def affinities(rows: Floats) -> Floats:
    """Return t-SNE's joint probabilities [n, n]: Gaussians of one perplexity, made symmetric."""
    squares = (rows * rows).sum(axis=1)
    products = torch.from_numpy(rows) @ torch.from_numpy(rows).T
    distance = np.maximum(squares[:, None] + squares - 2 * products.numpy(), 0)
    np.fill_diagonal(distance, np.inf)
    distance -= distance.min(axis=1, keepdims=True)
    finite = np.where(np.isfinite(distance), distance, 0)
    target = math.log(min(PERPLEXITY, (len(rows) - 1) / 3))
    low, high = np.zeros(len(rows)), np.full(len(rows), np.inf)
    precision = 1 / np.maximum(np.median(finite, axis=1), 1e-12)
    for _ in range(50):
        weights = np.exp(-distance * precision[:, None])
        total = weights.sum(axis=1)
        entropy = np.log(total) + precision * (weights * finite).sum(axis=1) / total
        low, high = (
            np.where(entropy > target, precision, low),
            np.where(entropy > target, high, precision),
        )
        precision = np.where(np.isinf(high), np.minimum(2 * precision, 1e100), (low + high) / 2)
    joint: Floats = weights / total[:, None]
    return (joint + joint.T) / (2 * len(rows))


def tsne(joint: Floats, start: Floats, *, steps: int = 600, early: int = 150) -> Floats:
    """Move points from `start` [n, 2] down the gradient of KL(joint || Student-t similarities)."""
    p_NN = torch.from_numpy(np.where(joint < 1e-12, 0, joint)).float()  # subnormals are slow
    y_N2 = torch.from_numpy(start).float()
    one_N1 = torch.ones(len(start), 1)
    velocity, gains = torch.zeros_like(y_N2), torch.ones_like(y_N2)
    near_NN, pull_NN = torch.empty_like(p_NN), torch.empty_like(p_NN)
    rate = max(len(start) / 48, 50.0)
    p_NN *= 12
    for step in range(steps):
        if step == early:
            p_NN /= 12
        squares = (y_N2 * y_N2).sum(dim=1, keepdim=True)
        left, right = torch.cat([-2 * y_N2, squares + 1, one_N1], 1), [y_N2, one_N1, squares]
        torch.mm(left, torch.cat(right, 1).T, out=near_NN).reciprocal_()  # 1 / (1 + distance^2)
        near_NN.fill_diagonal_(0)
        torch.add(p_NN, near_NN, alpha=-1 / float(near_NN.sum()), out=pull_NN).mul_(near_NN)
        pulled = pull_NN @ torch.cat([y_N2, one_N1], 1)
        gradient = 4 * (pulled[:, 2:] * y_N2 - pulled[:, :2])
        gains = torch.where(velocity * gradient < 0, gains + 0.2, gains * 0.8).clamp_(min=0.01)
        velocity = (0.5 if step < early else 0.8) * velocity - rate * gains * gradient
        y_N2 = y_N2 + velocity
    return (y_N2 - y_N2.mean(dim=0)).double().numpy()
