"""Losses: the kernels' functions by their public names, and their module forms."""

from ssgear.kernels.gradient_penalty import gradient_penalty
from ssgear.kernels.gradient_penalty_ops import (
    critic_batch,
    interpolate,
    sample_norm_penalty,
)
from ssgear.kernels.nt_xent import nt_xent
from ssgear.losses.contrastive import NTXentLoss
from ssgear.losses.margin import contrastive_margin

__all__ = [
    "NTXentLoss",
    "contrastive_margin",
    "critic_batch",
    "gradient_penalty",
    "interpolate",
    "nt_xent",
    "sample_norm_penalty",
]
