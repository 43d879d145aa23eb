"""Batches that are read ahead, in order, and what is no set of labelled images."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.stream import ahead
from ssgear.evaluation.probes.image_checks import check_images

IMAGES = torch.arange(7 * 3 * 2 * 2).view(7, 3, 2, 2).byte()
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])


class Reading:
    """Images that note which rows were read, and by which thread."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        self.rows.append(torch.arange(len(IMAGES))[rows].tolist())
        self.threads.add(threading.get_ident())
        return IMAGES[rows]

    @property
    def shape(self) -> Sequence[int]:
        return IMAGES.shape


def test_batches_come_in_order_and_one_is_read_ahead() -> None:
    images = Reading()
    places: list[slice | Tensor] = [slice(0, 3), torch.tensor([6, 2]), slice(3, 9)]
    walk = ahead(images, places)
    assert torch.equal(next(walk), IMAGES[:3])
    for place in places[1:]:
        assert torch.equal(next(walk), IMAGES[place])
    assert list(walk) == []
    assert images.rows == [[0, 1, 2], [6, 2], [3, 4, 5, 6]]
    assert threading.get_ident() not in images.threads


def test_a_reader_that_stops_early_leaves_no_thread_and_errors_pass() -> None:
    before = threading.active_count()
    walk = ahead(Reading(), [slice(0, 1), slice(1, 2), slice(2, 3)])
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert list(ahead(IMAGES, [])) == []
    with pytest.raises(IndexError):
        list(ahead(IMAGES, [torch.tensor([99])]))


def test_classes_are_counted_over_both_parts() -> None:
    assert check_images(IMAGES, LABELS, IMAGES, LABELS + 2) == 6
    assert check_images(IMAGES[:2], LABELS[:2], IMAGES, LABELS) == 4


@pytest.mark.parametrize(
    ("images", "labels", "tests", "answers", "message"),
    [
        (IMAGES, LABELS[:6], IMAGES, LABELS, r"train images \(7, 3, 2, 2\) and labels \(6,\)"),
        (IMAGES, LABELS, IMAGES[:3], LABELS, r"test images \(3, 3, 2, 2\) and labels \(7,\)"),
        (IMAGES[:, :1], LABELS, IMAGES, LABELS, r"\(7, 1, 2, 2\).*give \[N, 3, S, S\] and \[N\]"),
        (IMAGES[0], LABELS, IMAGES, LABELS, r"\(3, 2, 2\)"),
        (IMAGES[:0], LABELS[:0], IMAGES, LABELS, r"train labels must be present .*got none"),
        (IMAGES, LABELS - 1, IMAGES, LABELS, r"train labels must be .* smallest label -1"),
        (IMAGES, LABELS, IMAGES, LABELS - 2, r"test labels must be .* smallest label -2"),
        (IMAGES, LABELS * 0 + 1, IMAGES, LABELS, r"training labels have one class; two"),
        (IMAGES[:1], LABELS[:1], IMAGES, LABELS, r"training labels have one class; two"),
        (IMAGES, LABELS, IMAGES[..., :1], LABELS, r"train images are 2 x 2 pixels, test .*2 x 1"),
    ],
)
def test_what_cannot_be_trained_on(
    images: Tensor, labels: Tensor, tests: Tensor, answers: Tensor, message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        check_images(images, labels, tests, answers)
    assert "\n" not in str(caught.value)
