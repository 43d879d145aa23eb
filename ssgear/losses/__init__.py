"""Losses: the kernels' functions by their public names, and their module forms."""

from ssgear.kernels.gradient_penalty import gradient_penalty
from ssgear.kernels.gradient_penalty.pieces import (
    critic_batch,
    interpolate,
    sample_norm_penalty,
)
from ssgear.kernels.nt_xent import nt_xent
from ssgear.kernels.nt_xent.info_nce import info_nce
from ssgear.losses.clustering import sinkhorn, swav
from ssgear.losses.contrastive import NTXentLoss
from ssgear.losses.correlation import barlow_twins
from ssgear.losses.margin import contrastive_margin
from ssgear.losses.similarity import byol, negative_cosine

__all__ = [
    "NTXentLoss",
    "barlow_twins",
    "byol",
    "contrastive_margin",
    "critic_batch",
    "gradient_penalty",
    "info_nce",
    "interpolate",
    "negative_cosine",
    "nt_xent",
    "sample_norm_penalty",
    "sinkhorn",
    "swav",
]
