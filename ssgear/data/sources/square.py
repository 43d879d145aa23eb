"""The whole image as a square: its centre, by its shorter side, resized.

One rule for whatever shows images that no view was made of: `Batch.images` and `Batch.fetch` of
every engine, evaluation, FID, reports, and the originals that views are generated from. Where the
two sides differ by an odd number, the pixel more is left out below or on the right. The resampling
is that of the views (`crop_resize`, bicubic, antialiased): the same bits on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.kernels.augment import crop_resize


def centre_boxes(sizes: Tensor) -> Tensor:
    """Return the centre squares of images of `sizes` [n, 2] (height, width), float32 [n, 4]."""
    side = sizes.min(dim=1, keepdim=True).values
    corner = (sizes - side) // 2
    return torch.cat((corner, side, side), dim=1).float()


def centre_squares(images: Tensor, size: int) -> Tensor:
    """Return the squares [n, 3, size, size] of images [n, 3, H, W], both uint8, of any strides."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[:, :, top : top + side, left : left + side]
    if side == size:
        return images
    whole = torch.tensor([0.0, 0.0, side, side], device=images.device).expand(len(images), 4)
    return crop_resize(images, whole, size).to(torch.uint8)
