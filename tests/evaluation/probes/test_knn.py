from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features import rows as rows_module
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.probes import knn
from ssgear.evaluation.probes.knn import check_k, knn_accuracy, knn_predictions, nearest


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


@pytest.mark.parametrize("width", [2, 19])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20])
def test_features_of_any_scale_have_the_same_neighbours(scale: float, width: int) -> None:
    train, y_train, test, _ = features(7)
    train, test = train[:, :width], test[:, :width]
    expected = knn_predictions(train, y_train, test, ks=(1, 20))
    scaled = knn_predictions(train * scale, y_train, test * scale, ks=(1, 20))
    for k in (1, 20):
        assert (scaled[k] == expected[k]).float().mean() > 0.99


def test_predictions_of_several_k_are_sklearns() -> None:
    train, y_train, test, y_test = features(4)
    predicted = knn_predictions(train, y_train, test, ks=(3, 20, 200), temperature=0.3)
    assert list(predicted) == [3, 20, 200]
    for k, classes in predicted.items():
        theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.3))
        expected = theirs.fit(train.numpy(), y_train.numpy()).predict(test.numpy())
        assert (classes.numpy() != expected).sum() <= 1, k
        accuracy = knn_accuracy(train, y_train, test, y_test, k=k, temperature=0.3)
        assert accuracy == float((classes == y_test).double().mean())


@pytest.mark.parametrize("width", [2, 19])
def test_a_bank_in_a_file_is_searched_in_blocks(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, y_train, test, _ = features(5)
    train, test = train[:, :width].contiguous(), test[:, :width]
    dense = nearest(test, train, 61)
    expected = knn_predictions(train, y_train, test, ks=(7, 61))
    np.save(tmp_path / "bank.npy", train.numpy())
    # 77 rows a block, of which the last group is not full; 100 queries a group, 37 a product
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 4 * width * 77)
    monkeypatch.setattr(knn, "QUERY_BYTES", 4 * width * 100)
    monkeypatch.setattr(knn, "SIMILARITIES", 37 * 80)
    monkeypatch.setattr(knn, "VOTES", 5 * 23)
    bank = FeatureFile(tmp_path / "bank.npy")
    values, rows = nearest(test, bank, 61)
    torch.testing.assert_close(values, dense[0], atol=1e-5, rtol=1e-5)
    assert (rows != dense[1]).float().mean() < 0.01  # neighbors that tie but for rounding
    assert all(len(set(row)) == 61 for row in rows.tolist())
    blockwise = knn_predictions(bank, y_train, test, ks=(7, 61))
    assert all((blockwise[k] != expected[k]).sum() <= 2 for k in (7, 61))


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
    with pytest.raises(ArgumentError, match="knn_accuracy: 437 test features and 436 labels"):
        train, labels, test, test_labels = features()
        knn_accuracy(train, labels, test, test_labels[1:])
    with pytest.raises(ArgumentError, match="one width"):
        nearest(torch.ones(3, 4), torch.ones(3, 5), 1)
    with pytest.raises(ArgumentError, match="900 train features and 899 labels"):
        train, labels, test, _ = features()
        knn_predictions(train, labels[1:], test)
    with pytest.raises(ArgumentError, match=r"positive \(got k=20, 0, temperature=0.07\)"):
        knn_predictions(train, labels, test, ks=(20, 0))


def test_more_neighbors_than_images_are_refused() -> None:
    check_k(200, 200)
    with pytest.raises(DataError, match=r"k = 200 needs at least 200 .* \(got 199\)"):
        check_k(200, 199)
    train, labels, test, _ = features()
    with pytest.raises(DataError, match=r"\(got 900\)"):
        knn_predictions(train, labels, test, ks=(20, 901))


def test_features_that_are_not_finite_are_named() -> None:
    train, labels, test, _ = features()
    train[[5, 17], 3] = torch.nan
    with pytest.raises(DataError, match=r"train features: 2 of 900 images .*\(rows 5, 17\)"):
        knn_predictions(train, labels, test)
