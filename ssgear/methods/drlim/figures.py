"""What features know of where an image stands: the same images moved sideways, and a vote on them.

DrLIM's measure (Hadsell, Chopra and LeCun 2006): on a map by plain distance neighbours tell an
image's shift, on one that knows that shifts change nothing they do not. Distances are Euclidean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.methods.base import Colouring, Figure, LabelledSplits, Maps, OwnProtocol
from ssgear.methods.base.card import Encode
from ssgear.methods.drlim.pretext import SHIFTS, shifted

NEIGHBOURS = 5
"""Rows that vote."""
CHUNK = 1024
MAP_POINTS = 1000
"""Points of a map."""


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """Images at all shifts, one shift after the other; row i of every field is one image."""

    images: Tensor
    """[M, 3, H, W] uint8."""
    features: Tensor
    """[M, F]."""
    shifts: Tensor
    """[M] int64: number of the shift."""
    labels: Tensor
    """[M] int64: class of the image."""


def shifted_features(encode: Encode, images: Tensor, labels: Tensor) -> Shifted:
    """Return images [N, 3, H, W] and their features at every shift."""
    moved = torch.cat([shifted(images, by) for by in SHIFTS])
    return Shifted(
        images=moved,
        features=encode(moved),
        shifts=torch.arange(len(SHIFTS)).repeat_interleave(len(images)),
        labels=labels.cpu().repeat(len(SHIFTS)),
    )


def vote_accuracy(bank: Tensor, answers: Tensor, queries: Tensor, right: Tensor) -> float:
    """Return the share of queries [Q, F] whose five nearest rows of the bank vote rightly.

    Of classes with as many votes the smallest number wins.
    """
    classes = int(max(answers.max(), right.max())) + 1
    hits = 0
    chunks = zip(torch.split(queries, CHUNK), torch.split(right, CHUNK), strict=True)
    for part, wanted in chunks:
        rows = torch.cdist(part.double(), bank.double()).topk(
            min(NEIGHBOURS, len(bank)), dim=1, largest=False
        )
        votes = torch.zeros(len(part), classes)
        votes.scatter_add_(1, answers[rows.indices], torch.ones(rows.indices.shape))
        hits += int((votes.argmax(1) == wanted).sum())
    return hits / len(queries)


def measure_shifts(encode: Encode, data: LabelledSplits) -> dict[str, float]:
    """Vote on the features of moved images: which shift, and which class."""
    train = shifted_features(encode, data.train_images, data.train_labels)
    test = shifted_features(encode, data.test_images, data.test_labels)
    return {
        "shift_knn": vote_accuracy(train.features, train.shifts, test.features, test.shifts),
        "moved_label_knn": vote_accuracy(train.features, train.labels, test.features, test.labels),
    }


def draw_maps(encode: Encode, data: LabelledSplits) -> Maps:
    """Return where moved test images lie on the plane, coloured by shift and by class."""
    moved = shifted_features(encode, data.test_images, data.test_labels)
    rows = torch.linspace(0, len(moved.features) - 1, min(MAP_POINTS, len(moved.features)))
    rows = rows.round().long()
    shifts = tuple(f"{by:+d} px" if by else "unmoved" for by in SHIFTS)
    return Maps(
        title="Map of moved images",
        text="points: test images, each moved sideways by several distances, where the encoder "
        "puts them. The same points twice: coloured by how far an image was moved, and by its "
        "class, with some of the images.",
        xy=moved.features[rows],
        images=moved.images[rows],
        colourings=(
            Colouring(title="by shift", labels=moved.shifts[rows], names=shifts),
            Colouring(
                title="by class", labels=moved.labels[rows], names=data.classes, pictured=True
            ),
        ),
    )


FIGURES = {
    "shift_knn": Figure(
        title="Shift of a moved image, by its nearest neighbours", chance=1 / len(SHIFTS)
    ),
    "moved_label_knn": Figure(title="Class of a moved image, by its nearest neighbours"),
}
"""How the figures of `measure_shifts` are shown."""
PROTOCOL = OwnProtocol(name="shifts", measure=measure_shifts)
