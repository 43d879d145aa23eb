"""The vote on moved images against scikit-learn's, and what is said of features made by hand."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from ssgear.evaluation.images import EvalData
from ssgear.evaluation.protocols import find
from ssgear.evaluation.subject import Subject
from ssgear.methods.drlim.figures import shifted_features, vote_accuracy
from ssgear.methods.drlim.pretext import SHIFTS


def test_the_vote_is_sklearns() -> None:
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(200, 2)), rng.normal(size=(90, 2))
    answers, right = rng.integers(0, 3, 200), (queries[:, 0] > 0).astype(np.int64)
    expected = KNeighborsClassifier(5).fit(bank, answers).score(queries, right)
    found = vote_accuracy(*(torch.from_numpy(each) for each in (bank, answers, queries, right)))
    assert found == expected


class Middle(nn.Module):
    """Where the brightness of an image lies, from its left, and how much there is of it."""

    def forward(self, images: Tensor) -> Tensor:
        mass = images.float().sum((1, 2))
        place = (mass * torch.arange(mass.shape[1])).sum(1) / mass.sum(1)
        return torch.stack((place, mass.sum(1)), dim=1)


class Amount(Middle):
    """Only how much there is."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * torch.tensor([0.0, 1.0])


def test_features_that_know_the_shift_and_features_that_do_not() -> None:
    images = torch.zeros(40, 3, 8, 32, dtype=torch.uint8)
    images[:, :, 2:5, 14:18] = 100
    images[20:, :, 2:5, 14:18] = 200
    labels = torch.arange(40) // 20
    data = EvalData(
        train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    moved = shifted_features(Middle(), images, labels)
    assert moved.features[:, 0].unique().tolist() == [15.5 + by for by in SHIFTS]

    def measure(subject: Subject) -> dict[str, float]:
        measures = find("shifts").measure(subject).measures
        assert measures["shift_knn"].num_test == 40
        return {name: found.value for name, found in measures.items()}

    assert measure(Subject(Middle(), data)) == {"shift_knn": 1.0, "moved_label_knn": 1.0}
    # five equal shares, of which a vote can be right about one
    assert measure(Subject(Amount(), data)) == {"shift_knn": 0.2, "moved_label_knn": 1.0}
