"""Images put together from pixels of other places, each image from its own.

Everything is `torch.gather`, which is linear in the images: it has derivatives of every order, and
deterministic ones where PyTorch is asked for them. Shapes: N images of C channels and sides H x W,
results of sides P x Q; indices may have sides of 1, which are repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return [N, C, P, Q]: pixel (p, q) of row i is that at (rows[i, p, q], columns[i, p, q])."""
    n, channels, _, width = images_NCHW.shape
    index_NPQ = rows * width + columns
    sides = index_NPQ.shape[1:]
    index = index_NPQ.reshape(n, 1, -1).expand(-1, channels, -1)
    return images_NCHW.flatten(2).gather(2, index).reshape(n, channels, *sides)


def mirrored(index: Tensor, side: int) -> Tensor:
    """Fold whole numbers into [0, side): -1 becomes 0, -2 becomes 1, `side` becomes side - 1."""
    index = index.remainder(2 * side)
    return torch.minimum(index, 2 * side - 1 - index)


def mirror_pad(images_NCHW: Tensor, pad: int) -> Tensor:
    """Continue the images by `pad` mirrored pixels on every side."""
    height, width = images_NCHW.shape[2:]
    device = images_NCHW.device
    rows = mirrored(torch.arange(-pad, height + pad, device=device), height)
    columns = mirrored(torch.arange(-pad, width + pad, device=device), width)
    return images_NCHW[:, :, rows[:, None], columns]


def bilinear(images_NCHW: Tensor, y_NPQ: Tensor, x_NPQ: Tensor) -> Tensor:
    """Return [N, C, P, Q] between pixels: whole coordinates are their centres, mirrored outside."""
    height, width = images_NCHW.shape[2:]
    top, left = y_NPQ.floor(), x_NPQ.floor()
    down, right = ((c - f).to(images_NCHW.dtype) for c, f in ((y_NPQ, top), (x_NPQ, left)))
    result = torch.zeros_like(images_NCHW[:, :, :1, :1])
    for row, weight_down in ((top, 1 - down), (top + 1, down)):
        for column, weight_right in ((left, 1 - right), (left + 1, right)):
            rows, columns = mirrored(row.long(), height), mirrored(column.long(), width)
            weight = (weight_down * weight_right)[:, None]
            result = result + gather(images_NCHW, rows, columns) * weight
    return result
