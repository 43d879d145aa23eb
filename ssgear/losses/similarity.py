"""Losses without negatives: predictions drawn towards targets that get no gradient.

    byol              2 - 2 <p, t> / (|p| |t|)      Grill et al. 2020, arXiv 2006.07733, equation 2
    negative_cosine      - <p, t> / (|p| |t|)       Chen & He 2020, arXiv 2011.10566, equation 1

Means over rows, of one direction; both papers add the other direction, SimSiam halving the sum.
Rows stand alone: over ranks the mean of the values is the global loss, and no rank needs another.
Shapes: n rows, D the width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.checks import check_floats, compute_dtype
from ssgear.kernels.nt_xent.rows import unit_rows, zero_or_nan


def byol(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared distance of predictions [n, D] and targets [n, D] as unit rows.

    A float32 scalar, computed in float32 (float64 where predictions are). Targets get no gradient.
    A zero row stays zero and gets none either. NaN or an infinity in any row makes the loss NaN.
    """
    return (2 - 2 * _cosines(predictions, targets, "byol")).mean().float()


def negative_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return minus the mean cosine of predictions [n, D] and targets [n, D].

    Otherwise as `byol`, of which it is half but for a constant.
    """
    return -_cosines(predictions, targets, "negative_cosine").mean().float()


def _cosines(predictions: Tensor, targets: Tensor, where: str) -> Tensor:
    check_floats(where, predictions=predictions, targets=targets)
    if predictions.shape != targets.shape or predictions.ndim != 2 or 0 in predictions.shape:
        raise ArgumentError(
            f"{where}: predictions have shape {list(predictions.shape)} and targets "
            f"{list(targets.shape)}; use two of [rows, width], row i of both of one image"
        )
    if predictions.device != targets.device:
        raise ArgumentError(
            f"{where}: predictions are on {predictions.device} and targets on {targets.device}; "
            "bring them to one device"
        )
    with torch.autocast(predictions.device.type, enabled=False):
        wide = compute_dtype(predictions)
        p_nD, t_nD = predictions.to(wide), targets.detach().to(wide)
        visible = 1 + zero_or_nan(p_nD) + zero_or_nan(t_nD)  # a factor: gradients show it too
        return visible * (unit_rows(p_nD)[0] * unit_rows(t_nD)[0]).sum(1)
