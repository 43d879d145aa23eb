from __future__ import annotations

import pytest
import torch

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.probes.checks import (
    check_finite,
    check_labels,
    finite_blocks,
    unseen_classes,
)


def test_rows_that_are_not_finite_are_counted_and_the_first_listed() -> None:
    rows = torch.zeros(1337, 7)
    check_finite(rows, "test")
    rows[40:60, 2] = torch.inf
    rows[999, 0] = -torch.inf
    rows[1001, 6] = torch.nan
    with pytest.raises(DataError) as caught:
        list(finite_blocks(rows, "test", size=100))
    assert str(caught.value) == (
        "test features: 22 of 1337 images have NaN or infinite features (rows 40, 41, 42, 43, 44, "
        "...); check the encoder's weights and these images"
    )


def test_infinities_of_both_signs_do_not_cancel_and_large_numbers_pass() -> None:
    rows = torch.zeros(9, 2)
    rows[3] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(DataError, match=r"1 of 9 .*\(rows 3\)"):
        list(finite_blocks(rows, "train"))
    large = torch.full((9, 2), 3e38)
    assert [len(block) for _, block in finite_blocks(large, "train", size=4)] == [4, 4, 1]


def test_classes_that_training_lacks() -> None:
    train, test = torch.tensor([0, 3, 3, 5]), torch.tensor([3, 7, 5, 1, 7])
    assert unseen_classes(train, test) == [1, 7]
    assert unseen_classes(test, test) == []


def test_labels_that_cannot_be_learned() -> None:
    labels = torch.tensor([0, 1, 2])
    check_labels("probe", labels, labels[:1])
    with pytest.raises(ArgumentError, match="probe: test labels must be there"):
        check_labels("probe", labels, labels[:0])
    with pytest.raises(ArgumentError, match="train labels must be there, and 0 or above"):
        check_labels("probe", labels - 1, labels)
    with pytest.raises(ArgumentError, match="one class; two are needed"):
        check_labels("probe", labels[1:2], labels)
