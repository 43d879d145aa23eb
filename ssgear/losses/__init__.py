"""Losses: the kernels' functions by their public names, and their module forms."""

from ssgear.kernels.nt_xent import nt_xent
from ssgear.losses.contrastive import NTXentLoss

__all__ = ["NTXentLoss", "nt_xent"]
