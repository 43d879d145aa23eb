from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.probes.labels import balanced_subset, listed_subset

LABELS = torch.randint(0, 7, (1003,), generator=torch.Generator().manual_seed(0))


def test_subsets_are_balanced_nested_and_fixed_by_their_seed() -> None:
    shares = (0.01, 0.1, 0.5, 1.0)
    subsets = [balanced_subset(LABELS, share, seed=3) for share in shares]
    for share, rows in zip(shares[:-1], subsets[:-1], strict=True):
        counts = torch.bincount(LABELS[rows], minlength=7)
        assert counts.tolist() == [round(share * 1003 / 7)] * 7
        assert torch.equal(rows, rows.unique()) and rows.dtype == torch.int64
        assert torch.equal(rows, balanced_subset(LABELS, share, seed=3))
        assert not torch.equal(rows, balanced_subset(LABELS, share, seed=4))
    for small, large in pairwise(subsets):
        assert set(small.tolist()) <= set(large.tolist())
    assert torch.equal(subsets[-1], torch.arange(1003))


def test_a_class_has_a_row_at_least_and_no_more_than_it_has() -> None:
    assert len(balanced_subset(LABELS, 0.0001, seed=0)) == 7
    assert len(balanced_subset(LABELS, 0.0001, seed=0, min_per_class=4)) == 28
    labels = torch.tensor([0] * 50 + [1] * 3)
    assert torch.bincount(labels[balanced_subset(labels, 0.4, seed=1)]).tolist() == [11, 3]


def test_shares_that_leave_nothing_to_learn_are_refused() -> None:
    for share in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ArgumentError, match=f"above 0 and at most 1 .got {share}"):
            balanced_subset(LABELS, share, seed=0)
    with pytest.raises(DataError, match=r"0\.001 of 1003 images leaves 0 of each of 7 classes"):
        balanced_subset(LABELS, 0.001, seed=0, min_per_class=0)
    with pytest.raises(DataError, match="1 of each of 1 classes; two classes"):
        balanced_subset(LABELS[:9] * 0, 0.1, seed=0)
    with pytest.raises(DataError, match="of 0 images"):
        balanced_subset(LABELS[:0], 1, seed=0)


def test_a_published_list_names_rows(tmp_path: Path) -> None:
    names = [f"train/n0{i % 3}/n0{i % 3}_{i}.JPEG" for i in range(30)]
    path = tmp_path / "1percent.txt"
    path.write_text("n02_8.JPEG\nn00_3.JPEG\n\nn01_13.JPEG\n")
    assert listed_subset(names, path).tolist() == [3, 8, 13]
    path.write_text("n02_8.JPEG\nn00_4.JPEG\n")
    with pytest.raises(DataError, match=r"1 of 2 images are not in .* \(first: n00_4.JPEG\)"):
        listed_subset(names, path)
    path.write_text("\n")
    with pytest.raises(DataError, match="empty; a list has one file name a line"):
        listed_subset(names, path)
    with pytest.raises(DataError, match="cannot be read"):
        listed_subset(names, tmp_path / "absent.txt")
