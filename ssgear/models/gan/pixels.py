"""Images put together from pixels of other places, each image from its own.

Everything is `torch.gather`, which is linear in the images: it has derivatives of every order, and
deterministic ones where PyTorch is asked for them. Shapes: N images of C channels and sides H x W,
results of sides P x Q; rows and columns may have sides of 1, which are repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather(images_NCHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return [N, C, P, Q]: pixel (p, q) of row i is that at (rows[i, p, q], columns[i, p, q])."""
    n, channels, _, width = images_NCHW.shape
    index_NPQ = rows * width + columns
    index = index_NPQ.flatten(1)[:, None].expand(-1, channels, -1)
    return images_NCHW.flatten(2).gather(2, index).reshape(n, channels, *index_NPQ.shape[1:])


def mirrored(index: Tensor, side: int) -> Tensor:
    """Fold whole numbers into [0, side): -1 becomes 0, -2 becomes 1, `side` becomes side - 1."""
    index = index.remainder(2 * side)
    return torch.minimum(index, 2 * side - 1 - index)


def bilinear(images_NCHW: Tensor, y_NPQ: Tensor, x_NPQ: Tensor) -> Tensor:
    """Return [N, C, P, Q] between pixels: whole coordinates are their centres.

    Coordinates are in [0, H - 1) and [0, W - 1): the pixels to the lower right are there.
    """
    n, channels, _, width = images_NCHW.shape
    top, left = y_NPQ.floor(), x_NPQ.floor()
    down, right = y_NPQ - top, x_NPQ - left
    first = top.long() * width + left.long()
    # one gather of all four neighbours: its backward is one scatter into one image
    index = torch.stack((first, first + 1, first + width, first + width + 1), dim=1)
    up = 1 - down
    weights = (up * (1 - right), up * right, down * (1 - right), down * right)
    pixels = images_NCHW.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, channels, -1))
    pixels = pixels.reshape(n, channels, *index.shape[1:])
    return (pixels * torch.stack(weights, dim=1)[:, None]).sum(dim=2)
