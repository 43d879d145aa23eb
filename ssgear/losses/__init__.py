"""Losses: the kernels' functions by their public names, and their module forms."""

from ssgear.kernels.gradient_penalty import gradient_penalty
from ssgear.kernels.gradient_penalty_ops import (
    critic_batch,
    interpolate,
    sample_norm_penalty,
)
from ssgear.kernels.nt_xent import nt_xent
from ssgear.losses.contrastive import NTXentLoss

__all__ = [
    "NTXentLoss",
    "critic_batch",
    "gradient_penalty",
    "interpolate",
    "nt_xent",
    "sample_norm_penalty",
]
