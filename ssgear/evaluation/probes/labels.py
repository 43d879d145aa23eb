"""Subsets of a training set with a share of its labels, for accuracy over the number of labels.

`balanced_subset` draws the same number of every class, fixed by a seed; `listed_subset` reads the
published lists of ImageNet (SimCLR's `1percent.txt`, one file name a line), so that figures compare
with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError, did_you_mean, refusing, unreadable
from ssgear.kernels import philox


def balanced_subset(labels: Tensor, share: float, *, seed: int, min_per_class: int = 1) -> Tensor:
    """Return the rows of a share of the labels, in ascending order, int64 on the CPU.

    Every class has the same number of rows, share x N / C rounded, or all that it has. Subsets of
    one seed are nested: the rows of a smaller share are among those of a larger one.

    Args:
        labels: int64 [N] from 0.
        share: Share of the rows, in (0, 1]; 1 returns all rows.
        seed: Which rows.
        min_per_class: Fewest rows of a class.

    Raises:
        ArgumentError: the share is not in (0, 1].
        DataError: no image or fewer than two classes would be left.
    """
    if not 0 < share <= 1:
        raise ArgumentError(f"share of labels: must be above 0 and at most 1 (got {share})")
    labels = labels.cpu()
    classes = sorted(set(labels.tolist()))
    count = max(min_per_class, round(share * len(labels) / max(1, len(classes))))
    if len(classes) < 2 or count == 0:
        raise DataError(
            f"share of labels: {share} of {len(labels)} images leaves {count} of each of "
            f"{len(classes)} classes; two classes with an image each are needed"
        )
    if share == 1:
        return torch.arange(len(labels))
    parts = []
    for label in classes:
        rows = (labels == label).nonzero()[:, 0]
        key = philox.derive_key(seed, "labels", label)
        parts.append(rows[philox.permutation(key, len(rows))[:count]])
    return torch.cat(parts).sort().values


def listed_subset(names: Sequence[str], path: Path) -> Tensor:
    """Return the rows whose image a list names, in ascending order, int64.

    Args:
        names: File name of every row; folders before the name do not matter.
        path: A list with one file name a line, as `n01440764_10026.JPEG`.

    Raises:
        DataError: the list cannot be read, is empty, or names an image that is not there.
    """
    with refusing((OSError, UnicodeError), unreadable(path)):
        lines = path.read_text(encoding="utf-8").splitlines()
    listed = [line.strip().rsplit("/", 1)[-1] for line in lines if line.strip()]
    if not listed:
        raise DataError(f"{path}: empty; a list has one file name a line")
    row_of = {name.rsplit("/", 1)[-1]: row for row, name in enumerate(names)}
    missing = [name for name in listed if name not in row_of]
    if missing:
        near = did_you_mean(missing[0], row_of) if len(row_of) < 10_000 else ""
        raise DataError(
            f"{path}: {len(missing)} of {len(listed)} images are not in the training set "
            f"(first: {missing[0]}){near}; use the list of this data set"
        )
    return torch.tensor(sorted({row_of[name] for name in listed}))
