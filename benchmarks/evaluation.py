"""Measures of features: kNN, linear probe, mAP and CKA, and their memory on a million rows.

Features are random: classes with a mean of their own, and noise whose directions differ in size.
Every result is compared with the peer's before it is timed; both take turns. With `--large`, each
measure takes a sparse file of a million rows in a process of its own, whose peak memory is shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.command import Benchmark, Parser, WrongResultError, count
from benchmarks.common.machine import synchronise
from benchmarks.common.table import show
from benchmarks.common.timing import in_turns
from benchmarks.evaluation_large import measure_large
from ssgear.evaluation.probes.knn import nearest
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.similarity.cka import cka
from ssgear.evaluation.similarity.retrieval import mean_average_precision, retrieve

CLASSES = 10
NEIGHBORS = 200
L2 = 1e-3
"""Weight of |W|^2 / 2 in the mean loss of the probe."""
SLOW_QUERIES = 200
"""Queries that scikit-learn ranks one after the other; its time is scaled to all."""

Features = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure."""

    what: str
    size: str
    ours_s: float
    """Seconds of the fastest round."""
    peer: str
    peer_s: float
    limit_s: float | None
    """Seconds that are the goal, at the size of the defaults."""

    @property
    def ratio(self) -> float:
        """Time of the peer over ours."""
        return self.peer_s / self.ours_s

    @property
    def limit(self) -> str:
        """Return the goal in words."""
        return "-" if self.limit_s is None else f"{self.limit_s:g} s"


@dataclass(frozen=True)
class Contest:
    """Two ways to the same result."""

    what: str
    size: str
    ours: Callable[[], Any]
    peer_name: str
    peer: Callable[[], Any]
    check: Callable[[Any, Any], str]
    """Returns what is wrong with our result and the peer's, or nothing."""
    limit_s: float | None = None
    scale: float = 1.0
    """What the peer's time is multiplied by, where it does a part."""

    def run(self, rounds: int, device: str) -> Row:
        """Check, then time both in turns."""
        problem = self.check(self.ours(), self.peer())
        if problem:
            raise WrongResultError(f"{self.what}: {problem}")

        def seconds(call: Callable[[], Any]) -> float:
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            return time.perf_counter() - start

        taken = in_turns({"ours": self.ours, "peer": self.peer}, seconds, rounds)
        return Row(
            what=self.what,
            size=self.size,
            ours_s=min(taken["ours"]),
            peer=self.peer_name,
            peer_s=self.scale * min(taken["peer"]),
            limit_s=self.limit_s,
        )


def random_features(rows: int, width: int, seed: int) -> Features:
    """Return features [N, F] and labels [N]; the means of the classes do not depend on the seed."""
    common, own = (torch.Generator().manual_seed(number) for number in (0, seed))
    spectrum = torch.arange(1, width + 1).float().pow(-0.5)
    turn = torch.linalg.qr(torch.randn(width, width, generator=common))[0]
    means = 0.5 * torch.randn(CLASSES, width, generator=common)
    labels = torch.randint(CLASSES, (rows,), generator=own)
    noise = torch.randn(rows, width, generator=own)
    return (((means[labels] + noise) * spectrum) @ turn + 1), labels


def knn_contest(train: Tensor, test: Tensor) -> Contest:
    unit_train, unit_test = (F.normalize(rows, dim=1).cpu().numpy() for rows in (train, test))
    k = min(NEIGHBORS, len(train))

    def peer() -> Tensor:
        # of unit rows the nearest by distance are the most similar: scikit-learn's fastest way
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit_train)
        return torch.from_numpy(search.kneighbors(unit_test, return_distance=False))

    def check(ours: Tensor, expected: Tensor) -> str:
        # equal but for neighbors that differ in the last digits of their similarity
        same = float((ours.cpu().sort(1).values == expected.sort(1).values).double().mean())
        return "" if same > 0.98 else f"only {same:.2%} of neighbors are scikit-learn's"

    size = f"{len(train):,} x {train.shape[1]}, {len(test):,} queries"
    return Contest(
        "kNN", size, lambda: nearest(test, train, k)[1], "scikit-learn", peer, check, limit_s=10
    )


def probe_contest(train: Features, test: Features) -> Contest:
    (x, y), (x_test, y_test) = train, test
    mean, deviation = x.mean(0), x.std(0, correction=0)
    standard, standard_test = (((rows - mean) / deviation).cpu().numpy() for rows in (x, x_test))

    def ours() -> float:
        return float(linear_probe(x, y, x_test, y_test, l2=L2).top1)

    def peer() -> float:
        model = LogisticRegression(C=1 / (L2 * len(x)), max_iter=1000, tol=1e-5)
        return float(model.fit(standard, y.cpu()).score(standard_test, y_test.cpu()))

    def check(value: float, expected: float) -> str:
        wrong = abs(value - expected) > 1e-3
        return f"top-1 is {value:.4f}, scikit-learn's is {expected:.4f}" if wrong else ""

    size = f"{len(x):,} x {x.shape[1]}, {CLASSES} classes"
    return Contest("linear probe", size, ours, "scikit-learn", peer, check, limit_s=60)


def retrieval_contest(features: Tensor, labels: Tensor) -> Contest:
    few = min(SLOW_QUERIES, len(features))
    unit = F.normalize(features.double(), dim=1).cpu().numpy()
    answers = labels.cpu().numpy()

    def peer() -> Tensor:
        values = []
        for query in range(few):
            others = np.arange(len(unit)) != query
            similar = (unit @ unit[query])[others]
            values.append(average_precision_score((answers == answers[query])[others], similar))
        return torch.tensor(values, dtype=torch.float64)

    expected = retrieve(features, labels, ks=()).per_query[:few]

    def check(_: float, values: Tensor) -> str:
        # ours compares similarities in float32: some that differ a little are equal
        error = float((expected - values).abs().max())
        return "" if error < 1e-4 else f"an average precision is off by {error:.1e}"

    size = f"{len(features):,} x {features.shape[1]}"
    return Contest(
        "mAP", size, lambda: mean_average_precision(features, labels), "scikit-learn", peer, check,
        scale=len(features) / few,
    )  # fmt: skip


def published_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA as its authors publish it, in feature space, debiased (Kornblith et al. 2019)."""
    x, y = a - a.mean(0, keepdims=True), b - b.mean(0, keepdims=True)
    n = len(x)
    rows_x, rows_y = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)

    def debiased(square: float, p: np.ndarray, q: np.ndarray) -> float:
        outer = p.sum() * q.sum() / ((n - 1) * (n - 2))
        return float(square - n / (n - 2) * p.dot(q) + outer)

    cross = debiased(np.linalg.norm(x.T.dot(y)) ** 2, rows_x, rows_y)
    of_x = debiased(np.linalg.norm(x.T.dot(x)) ** 2, rows_x, rows_x)
    of_y = debiased(np.linalg.norm(y.T.dot(y)) ** 2, rows_y, rows_y)
    return float(cross / np.sqrt(of_x) / np.sqrt(of_y))


def cka_contest(features: Tensor) -> Contest:
    a, b = features, features.square() + 0.1 * features.roll(1, dims=1)
    wide_a, wide_b = (rows.double().cpu().numpy() for rows in (a, b))

    def check(value: float, expected: float) -> str:
        wrong = abs(value - expected) > 1e-6
        return f"{value:.8f}, published formula: {expected:.8f}" if wrong else ""

    size = f"{len(a):,} x {a.shape[1]} twice"
    return Contest(
        "CKA", size, lambda: cka(a, b), "NumPy, float64", lambda: published_cka(wide_a, wide_b),
        check,
    )  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time every measure at the sizes of the options."""
    if options.large:
        sizes = options.large_rows, options.large_width, options.threads
        return {"large": measure_large(*sizes, options.measures)}
    device = options.device
    train = random_features(options.train, options.width, seed=1)
    test = random_features(options.test, options.width, seed=2)
    train, test = ((x.to(device), y.to(device)) for x, y in (train, test))
    contests = {
        "knn": lambda: knn_contest(train[0], test[0]),
        "linear": lambda: probe_contest(train, test),
        "map": lambda: retrieval_contest(*test),
        "cka": lambda: cka_contest(train[0]),
    }
    names = [name for name in contests if name in (options.measures or contests)]
    rows = [contests[name]().run(options.rounds, device) for name in names]
    columns = {
        "ours": "{0.ours_s:.2f} s",
        "peer": "{0.peer_s:.2f} s",
        "ratio": "{0.ratio:.2f}",
        "limit": "{0.limit}",
    }
    title = f"Measures of features, {torch.get_num_threads()} threads, {device}"
    show(title, rows, "{0.what} {0.size} ({0.peer})", columns)
    return {"rows": rows}


def add_options(parser: Parser) -> None:
    """Add sizes."""
    add = parser.add_argument
    add("--train", type=count, default=50_000, help="training features (50000)")
    add("--test", type=count, default=10_000, help="test features (10000)")
    add("--width", type=count, default=512, help="numbers of a feature (512)")
    names = ("knn", "linear", "map", "cka", "sgd")
    add(
        "--measures", nargs="+", choices=names, metavar="NAME",
        help="of knn linear map cka, with --large of knn sgd cka (all)",
    )  # fmt: skip
    add("--large", action="store_true", help="peak memory with a file of many rows in its place")
    add("--large-rows", type=count, default=1_000_000, help="rows of that file (1000000)")
    add("--large-width", type=count, default=2048, help="its width (2048)")


BENCHMARK = Benchmark("evaluation", __doc__, measure, add_options, rounds=3)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
