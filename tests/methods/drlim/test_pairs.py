"""Neighbours against scikit-learn, the graph against a dense matrix, and what is drawn from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from ssgear.errors import ArgumentError
from ssgear.methods.drlim import pairs
from ssgear.methods.drlim.pairs import PairGraph, nearest_rows


def test_neighbours_are_sklearns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHUNK", 17)
    rows = np.random.default_rng(0).normal(size=(60, 12))
    _, expected = NearestNeighbors(n_neighbors=5).fit(rows).kneighbors()
    assert np.array_equal(nearest_rows(torch.from_numpy(rows), 5).numpy(), expected)
    with pytest.raises(ArgumentError, match="60 neighbours of 60 rows"):
        nearest_rows(torch.from_numpy(rows), 60)


def graph_and_matrix() -> tuple[PairGraph, torch.Tensor]:
    neighbours = torch.tensor([[1, 2], [0, 0], [3, 0], [3, 4], [3, 2], [0, 5]])
    matrix = torch.eye(6, dtype=torch.bool)
    for row, others in enumerate(neighbours.tolist()):
        for other in others:
            matrix[row, other] = matrix[other, row] = True
    return PairGraph.of(neighbours, 6), matrix


def test_edges_go_both_ways() -> None:
    graph, matrix = graph_and_matrix()
    every = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    assert torch.equal(graph.joined(every[:, 0], every[:, 1]), matrix.flatten())
    for alone_or_with_all in ([[0], [2], [1], [1]], [[1], [0], [0], [0]]):
        with pytest.raises(ArgumentError, match="an image has no neighbour, or none that is not"):
            PairGraph.of(torch.tensor(alone_or_with_all), 4)


def test_pairs_are_joined_and_not_joined_and_evenly_drawn() -> None:
    graph, matrix = graph_and_matrix()
    index = torch.arange(6)
    seen: dict[str, set[tuple[int, int]]] = {"near": set(), "far": set()}
    first = 0
    for epoch in range(400):
        near, far = graph.draw(index, seed=3, epoch=epoch)
        assert bool(matrix[index, near].all()) and not bool((near == index).any())
        assert not bool(matrix[index, far].any())
        seen["near"] |= set(zip(index.tolist(), near.tolist(), strict=True))
        seen["far"] |= set(zip(index.tolist(), far.tolist(), strict=True))
        first += int(near[0] == 1)
    assert len(seen["near"]) == int(matrix.sum()) - 6
    assert len(seen["far"]) == int((~matrix).sum())
    assert 80 < first < 190  # image 0 has three neighbours


def test_a_pair_depends_on_seed_epoch_and_image_alone() -> None:
    graph, _ = graph_and_matrix()
    whole = graph.draw(torch.arange(6), seed=1, epoch=2)
    some = torch.tensor([4, 1])
    for every, part in zip(whole, graph.draw(some, seed=1, epoch=2), strict=True):
        assert torch.equal(every[some], part)
    others = [graph.draw(torch.arange(6), seed=1, epoch=epoch)[1].tolist() for epoch in range(8)]
    assert len({tuple(other) for other in others}) > 1
