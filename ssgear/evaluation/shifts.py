"""What features know of where an image stands: the same images moved sideways, and a vote on them.

DrLIM's measure (Hadsell, Chopra and LeCun 2006): on a map by plain distance neighbours tell an
image's shift, on one that knows that shifts change nothing they do not. Distances are Euclidean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssgear.data.sources.digits import SHIFTS, shifted
from ssgear.evaluation.features import extract

NEIGHBOURS = 5
"""Rows that vote."""
CHUNK = 1024


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


def shifted_features(
    encoder: nn.Module, images: Tensor, labels: Tensor, *, device: torch.device | None = None
) -> Shifted:
    """Return images [N, 3, H, W] and their features at every shift."""
    moved = torch.cat([shifted(images, by) for by in SHIFTS])
    return Shifted(
        images=moved,
        features=extract(encoder, moved, device=device),
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
