"""Retrieval against scikit-learn's average precision, and against torchmetrics."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.similarity import retrieval as room
from ssgear.evaluation.similarity.examples import examples
from ssgear.evaluation.similarity.retrieval import mean_average_precision, retrieve


def images(count: int = 143, classes: int = 7) -> tuple[Tensor, Tensor]:
    """Classes of unequal size and of any order; label 5 has one image, label 3 none."""
    generator = torch.Generator().manual_seed(count)
    labels = (torch.rand(count, generator=generator).square() * classes).long()
    labels[(labels == 5) | (labels == 3)] = 0
    labels[17] = 5
    middles = torch.randn(classes, 11, generator=generator)
    return middles[labels] + 1.5 * torch.randn(count, 11, generator=generator) + 0.5, labels


def oracle(features: Tensor, labels: Tensor) -> Tensor:
    similar = cosine_similarity(features.double().numpy()).astype(np.float32)
    values = []
    for query in range(len(labels)):
        others = torch.arange(len(labels)) != query
        relevant = (labels == labels[query])[others]
        has_any = bool(relevant.any())
        scores = similar[query][others.numpy()]
        values.append(average_precision_score(relevant, scores) if has_any else float("nan"))
    return torch.tensor(values, dtype=torch.float64)


def over_classes(values: Tensor, labels: Tensor) -> float:
    present = ~values.isnan()
    means = [values[present & (labels == label)].mean() for label in labels[present].unique()]
    return float(torch.stack(means).mean())


@pytest.mark.parametrize("elements", [1 << 23, 1000, 1])
def test_it_is_scikit_learn_query_by_query(
    elements: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "_ELEMENTS", elements)
    features, labels = images()
    expected = oracle(features, labels)
    result = retrieve(features, labels)
    assert torch.allclose(result.per_query, expected, rtol=1e-9, equal_nan=True)
    assert bool(result.per_query[17].isnan()) and result.num_alone == 1
    assert torch.equal(result.class_of, labels)
    mean = over_classes(expected, labels)
    assert result.mean_average_precision == pytest.approx(mean, rel=1e-9)
    assert 0.2 < mean < 0.9 and mean != pytest.approx(float(expected.nanmean()), abs=1e-3)
    np.save(tmp_path / "a.npy", features.numpy())
    file = FeatureFile(tmp_path / "a.npy")
    assert mean_average_precision(file, labels) == result.mean_average_precision


def test_equal_similarities_favor_nobody() -> None:
    features, labels = images()
    # only 9 different images: nearly all similarities are equal to others
    repeated = features[torch.arange(143) % 9]
    expected = oracle(repeated, labels)
    result = retrieve(repeated, labels, ks=(5,))
    assert torch.allclose(result.per_query, expected, rtol=1e-9, equal_nan=True)
    shuffled = torch.randperm(143, generator=torch.Generator().manual_seed(0))
    again = retrieve(repeated[shuffled], labels[shuffled], ks=(5,))
    for name in ("precision_at", "recall_at", "hit_at"):
        assert getattr(again, name) == pytest.approx(getattr(result, name)), name
    same = retrieve(torch.ones(143, 3), labels, ks=(1, 4))
    for label in (0, 1, 2):
        others = int((labels == label).sum()) - 1
        values = same.per_query[labels == label]
        assert torch.allclose(values, torch.full_like(values, others / 142))


def test_places_of_equal_images_are_means_over_all_orders() -> None:
    # a query, one image before the others, four that are equal: two of them relevant
    features = torch.tensor([[1.0, 0.0], [4.0, 1.0], *[[1.0, 1.0]] * 4])
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    every, relevant = next(room._queries(*_in_order(features, labels)))
    row = 0  # the first image of class 0 is the query
    for k in (1, 2, 3, 4, 5):
        among, hit = room._at(every, relevant, k)
        orders = [[False, *order] for order in itertools.permutations([True, False, False, True])]
        counts = [sum(order[:k]) for order in orders]
        assert float(among[row]) == pytest.approx(np.mean(counts))
        assert float(hit[row]) == pytest.approx(np.mean([count > 0 for count in counts]))


def _in_order(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    order = labels.argsort(stable=True)
    return room.unit_rows(features)[order], labels[order]


def test_k_most_similar_as_torchmetrics_counts_them() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.retrieval")
    features, labels = images()
    # it takes what is not above 0 for not retrieved
    similar = 2 + torch.from_numpy(cosine_similarity(features.double().numpy()))
    result = retrieve(features, labels, ks=(6, 142))
    functions = {
        "precision_at": metrics.retrieval_precision,
        "recall_at": metrics.retrieval_recall,
        "hit_at": metrics.retrieval_hit_rate,
    }
    for name, function in functions.items():
        for k in (6, 142):
            values = torch.full((143,), torch.nan, dtype=torch.float64)
            for query in (labels != 5).nonzero()[:, 0].tolist():
                others = torch.arange(143) != query
                relevant = labels[others] == labels[query]
                values[query] = function(similar[query][others], relevant, top_k=k)
            expected = over_classes(values, labels)
            assert getattr(result, name)[k] == pytest.approx(expected, rel=1e-6), (name, k)


def test_examples_follow_their_rule() -> None:
    features, labels = images()
    result = retrieve(features, labels)
    shown = examples(result, features, labels, per_kind=4, k=6)
    assert shown.kinds == ("best",) * 4 + ("typical",) * 4 + ("worst",) * 4
    order = result.per_query.argsort(stable=True)[:142]
    assert sorted(shown.average_precision[:4]) == sorted(result.per_query[order[-4:]])
    assert shown.queries[8:].tolist() == order[:4].tolist()
    median = float(result.per_query.nanquantile(0.5))
    distances = (result.per_query - median).abs().sort().values
    assert torch.allclose((shown.average_precision[4:8] - median).abs(), distances[:4])
    similar = cosine_similarity(features.double().numpy())
    np.fill_diagonal(similar, -2)
    expected = np.argsort(-similar, axis=1)[shown.queries.numpy(), :6]
    assert shown.neighbours.tolist() == expected.tolist()
    rows = shown.queries.numpy()[:, None]
    assert np.allclose(shown.similarities.numpy(), similar[rows, expected], atol=1e-6)
    assert torch.equal(shown.is_relevant, labels[shown.neighbours] == labels[shown.queries, None])


def test_small_sets_have_fewer_examples() -> None:
    features, labels = torch.randn(5, 3), torch.tensor([0, 0, 1, 1, 2])
    shown = examples(retrieve(features, labels, ks=()), features, labels)
    assert sorted(shown.queries.tolist()) == [0, 1, 2, 3] and shown.neighbours.shape == (4, 4)
    with pytest.raises(ArgumentError, match="examples: features, labels and figures are of diff"):
        examples(retrieve(features, labels, ks=()), features, labels + 1)
    with pytest.raises(ArgumentError, match=r"examples: must be positive \(got per_kind=0, k=8\)"):
        examples(retrieve(features, labels, ks=()), features, labels, per_kind=0)


def test_bad_input_is_refused() -> None:
    features, labels = images()
    with pytest.raises(ArgumentError, match=r"k must be between 1 and 142, .* \(got 143\)"):
        retrieve(features, labels, ks=(1, 143))
    with pytest.raises(ArgumentError, match=r"labels of shape \(142,\) torch.int64"):
        retrieve(features, labels[1:])
    with pytest.raises(ArgumentError, match=r"labels must be at least 0 \(got -1\)"):
        retrieve(features, labels - 1)
    with pytest.raises(ArgumentError, match=r"needs at least 2 images \(got 1\)"):
        mean_average_precision(features[:1], labels[:1])
    with pytest.raises(ArgumentError, match="every class has one image only"):
        mean_average_precision(features, torch.arange(143))
    with pytest.raises(DataError, match=r"retrieve: features: 1 of 143 images have"):
        retrieve(features.index_fill(0, torch.tensor(9), torch.nan), labels)
