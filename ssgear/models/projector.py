"""Heads of a method on its encoder: projectors, and predictors on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ssgear.models.heads import mlp, seeded

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder


def head(
    name: str,
    encoder: Encoder,
    dims: Sequence[int],
    in_features: int | None = None,
    *,
    normed: bool = True,
    last_norm: bool = False,
    last_affine: bool = True,
) -> nn.Sequential:
    """Build an `mlp` of widths `dims` with the encoder's kind of norm, or none.

    Its weights depend on the run's seed and on `name` alone. It takes the encoder's features where
    `in_features` is not given.
    """
    with seeded(torch.initial_seed(), name):
        return mlp(
            encoder.num_features if in_features is None else in_features,
            dims,
            norm=encoder.config.norm if normed else "none",
            last_norm=last_norm,
            last_affine=last_affine,
        )
