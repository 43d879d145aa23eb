"""What a probe refuses: features that are not finite, labels that cannot be learned.

`finite_blocks` walks features of any size once and checks them on the way. `unseen_classes` is for
a note: a probe counts test rows of a class that training lacks as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import Rows, blocks

NAMED_ROWS = 5
"""Rows that an error lists."""


def finite_blocks(
    rows: Rows, what: str, *, size: int | None = None, device: torch.device | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of float32 features, each with the number of its first row.

    Args:
        rows: Features [N, F].
        what: Name of the features in an error, as "train" or "test".
        size: Rows of a block; by default as many as fit in `BLOCK_BYTES`.
        device: Where blocks are placed; by default where the rows are.

    Raises:
        DataError: a feature is NaN or infinite; names how many rows, and the first.
    """
    for start, block in blocks(rows, size=size, device=device):
        # a sum is not finite where a number is not; a large sum of finite numbers is looked at too
        if not bool(block.sum().isfinite()):
            check_finite(rows, what)
        yield start, block


def check_finite(rows: Rows, what: str) -> None:
    """Raise DataError if rows of features [N, F] hold NaN or infinity."""
    count = 0
    first: list[int] = []
    for start, block in blocks(rows):
        bad = (~block.isfinite().all(1)).nonzero()[:, 0]
        count += len(bad)
        first += [start + int(row) for row in bad[: NAMED_ROWS - len(first)]]
    if count:
        listed = ", ".join(map(str, first)) + (", ..." if count > len(first) else "")
        raise DataError(
            f"{what} features: {count} of {len(rows)} images have NaN or infinite features "
            f"(rows {listed}); check the encoder's weights and these images"
        )


def check_features(
    probe: str, train: Rows, train_labels: Tensor, test: Rows, test_labels: Tensor
) -> None:
    """Raise ArgumentError unless features [N, F] and labels [N] fit and hold two classes."""
    for rows, labels, what in ((train, train_labels, "train"), (test, test_labels, "test")):
        if len(rows.shape) != 2 or labels.ndim != 1 or len(rows) != len(labels):
            raise ArgumentError(
                f"{probe}: {what} features {tuple(rows.shape)} and labels "
                f"{tuple(labels.shape)}; give [N, F] and [N]"
            )
    check_labels(probe, train_labels, test_labels)
    if train.shape[1] != test.shape[1]:
        raise ArgumentError(f"{probe}: widths {train.shape[1]} and {test.shape[1]} differ")


def check_labels(probe: str, train_labels: Tensor, test_labels: Tensor) -> None:
    """Raise ArgumentError unless labels [N] are there, 0 or above, and of two training classes."""
    for labels, what in ((train_labels, "train"), (test_labels, "test")):
        if len(labels) == 0 or int(labels.min()) < 0:
            raise ArgumentError(f"{probe}: {what} labels must be there, and 0 or above")
    if int(train_labels.min()) == int(train_labels.max()):
        raise ArgumentError(f"{probe}: the training labels hold one class; two are needed")


def unseen_classes(train_labels: Tensor, test_labels: Tensor) -> list[int]:
    """Return the classes of the test labels that no training label has, in order."""
    seen = torch.isin(test_labels, train_labels.to(test_labels.device))
    return sorted({int(label) for label in test_labels[~seen].tolist()})
