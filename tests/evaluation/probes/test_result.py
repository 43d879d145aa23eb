from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from ssgear.errors import ArgumentError
from ssgear.evaluation import ProbeResult
from ssgear.evaluation.probes.result import accuracies, best_classes, confusion, probe_result


@pytest.mark.parametrize("classes", [2, 5, 11])
def test_accuracy_and_confusion_are_sklearns(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(317, classes, generator=generator)
    labels = torch.randint(0, classes, (317,), generator=generator)
    predicted = best_classes(scores)
    assert predicted.shape == (317, min(5, classes)) and predicted.dtype == torch.int64
    top1, top5 = accuracies(predicted, labels)
    assert top1 == pytest.approx(np.mean(scores.argmax(1).numpy() == labels.numpy()))
    expected = 1.0
    if classes > 5:
        expected = top_k_accuracy_score(labels, scores, k=5)
    assert top5 == pytest.approx(expected)
    matrix = confusion(predicted[:, 0], labels, classes + 2)  # two classes that never occur
    theirs = confusion_matrix(labels, scores.argmax(1), labels=range(classes + 2))
    np.testing.assert_array_equal(matrix.numpy(), theirs)
    assert int(matrix.trace()) == round(top1 * 317)


def test_results_compare_by_their_figures() -> None:
    def result(predicted: torch.Tensor) -> ProbeResult:
        labels = torch.tensor([0, 1, 2])
        return probe_result(predicted, labels, l2=0.1, protocol="sgd", num_train=9, converged=True)

    one = result(torch.tensor([[0, 1], [1, 0], [0, 1]]))
    assert one == result(torch.tensor([[0, 2], [1, 2], [0, 1]]))
    assert one != result(torch.tensor([[1, 2], [1, 2], [0, 1]]))
    assert (one.top1, one.top5) == (2 / 3, 2 / 3) and "predicted" not in repr(one)


def test_bad_arguments_are_named() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(ArgumentError, match=r"predictions \(2,\) and labels \(3,\)"):
        confusion(labels[:2], labels, 3)
    with pytest.raises(ArgumentError, match=r"labels must be 0 to 1 \(got 0 to 2\)"):
        confusion(labels.clamp(max=1), labels, 2)
    with pytest.raises(ArgumentError, match=r"predictions must be 0 to 2 \(got -1 to 1\)"):
        confusion(labels - 1, labels, 3)
