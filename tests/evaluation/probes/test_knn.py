from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ssgear.errors import ArgumentError
from ssgear.evaluation.probes.knn import knn_accuracy, nearest


def features(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (1337,), generator=generator)
    centres = torch.randn(5, 19, generator=generator)
    x = centres[labels] + 1.7 * torch.randn(1337, 19, generator=generator)
    return x[:900], labels[:900], x[900:], labels[900:]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5), (5000, 0.07)])
def test_accuracy_is_sklearns_with_the_same_weights(k: int, temperature: float) -> None:
    train, y_train, test, y_test = (each.numpy() for each in features())
    theirs = KNeighborsClassifier(
        min(k, len(train)), metric="cosine", weights=lambda d: np.exp((1 - d) / temperature)
    )
    expected = theirs.fit(train, y_train).score(test, y_test)
    ours = knn_accuracy(*features(), k=k, temperature=temperature)
    assert ours == pytest.approx(expected, abs=1.5 / len(test))  # one tie may fall either way


def test_nearest_over_several_chunks_is_the_dense_answer() -> None:
    bank, _, _, _ = features()
    queries = torch.randn(2100, 19, generator=torch.Generator().manual_seed(2))
    similarities, rows = nearest(queries, bank, 7)
    dense = torch.nn.functional.cosine_similarity(queries[:, None], bank[None], dim=2)
    torch.testing.assert_close(similarities, dense.topk(7).values, atol=1e-5, rtol=1e-5)
    assert (dense.gather(1, rows) - similarities).abs().max() < 1e-5


def test_features_of_two_numbers_are_places_on_a_map() -> None:
    generator = torch.Generator().manual_seed(3)
    # three rings around a far point: from the origin all of them lie in one direction
    labels = torch.arange(3).repeat(400)
    turn = 2 * torch.pi * torch.rand(1200, generator=generator)
    rings = 500 + (labels + 0.5)[:, None] * torch.stack((turn.cos(), turn.sin()), dim=1)
    train, test = (rings[:900], labels[:900]), (rings[900:], labels[900:])
    assert knn_accuracy(*train, *test, k=5) == 1
    similarities, _ = nearest(test[0], train[0], 7)
    apart = torch.cdist(test[0].double(), train[0].double())
    radius = (train[0] - train[0].mean(0)).double().square().sum(1).mean().sqrt()
    expected = 1 - (apart.topk(7, largest=False).values / radius).square() / 2
    torch.testing.assert_close(similarities.double(), expected, atol=1e-4, rtol=0)
    assert knn_accuracy(1e6 * train[0], train[1], 1e6 * test[0], test[1], k=5) == 1


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="k=0"):
        knn_accuracy(*features(), k=0)
    with pytest.raises(ArgumentError, match="one width"):
        nearest(torch.ones(3, 4), torch.ones(3, 5), 1)
