"""What a probe returns, and what follows from its predictions.

    result = linear_probe(train, train_labels, test, test_labels)
    right_M = result.predicted[:, 0] == test_labels
    confusion_CC = confusion(result.predicted[:, 0], test_labels, classes)

Legend: M test rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgear.errors import ArgumentError

BEST = 5
"""Classes that are kept for a test row."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Accuracy of a probe on the test rows."""

    top1: float
    """Share of rows whose best class is right, in [0, 1]."""
    top5: float
    """Share of rows with the right class among the best five (all, where there are fewer)."""
    l2: float
    """Weight decay of the classifier."""
    protocol: str
    """lbfgs, sgd, mlp or finetune."""
    num_train: int
    """Training rows that the classifier was fitted to."""
    converged: bool
    """Whether the optimizer met its tolerance; of a fixed schedule, whether weights are finite."""
    predicted: Tensor = field(compare=False, repr=False)
    """[M, min(5, C)] int64 on the CPU: the best classes of every test row, the best first."""


def best_classes(scores_MC: Tensor) -> Tensor:
    """Return the at most five classes of highest score, [M, min(5, C)] int64, the best first."""
    return scores_MC.topk(min(BEST, scores_MC.shape[1]), dim=1).indices


def accuracies(predicted: Tensor, labels_M: Tensor) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy of best classes [M, at most 5], in [0, 1]."""
    right = predicted == labels_M.to(predicted.device)[:, None]
    return float(right[:, 0].double().mean()), float(right.any(1).double().mean())


def probe_result(
    predicted: Tensor,
    labels_M: Tensor,
    *,
    l2: float,
    protocol: str,
    num_train: int,
    converged: bool,
) -> ProbeResult:
    """Return the result of best classes [M, at most 5] for labels [M]."""
    top1, top5 = accuracies(predicted, labels_M)
    return ProbeResult(
        top1=top1, top5=top5, l2=l2, protocol=protocol, num_train=num_train, converged=converged,
        predicted=predicted.cpu(),
    )  # fmt: skip


def confusion(predicted_M: Tensor, labels_M: Tensor, classes: int) -> Tensor:
    """Return how often a class (row) was predicted as another (column), [C, C] int64 on the CPU.

    Args:
        predicted_M: Predicted classes, int64; `ProbeResult.predicted[:, 0]` or those of kNN.
        labels_M: True classes, int64.
        classes: Number of classes C.

    Raises:
        ArgumentError: lengths differ, or a class is outside 0 to C - 1.
    """
    predicted_M, labels_M = predicted_M.cpu(), labels_M.cpu()
    if predicted_M.ndim != 1 or predicted_M.shape != labels_M.shape:
        raise ArgumentError(
            f"confusion: predictions {tuple(predicted_M.shape)} and labels "
            f"{tuple(labels_M.shape)}; both must be [M]"
        )
    for name, values in (("predictions", predicted_M), ("labels", labels_M)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ArgumentError(
                f"confusion: {name} must be 0 to {classes - 1} "
                f"(got {int(values.min())} to {int(values.max())})"
            )
    cells = torch.bincount(labels_M * classes + predicted_M, minlength=classes * classes)
    return cells.view(classes, classes)
