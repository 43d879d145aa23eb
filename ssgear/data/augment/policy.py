"""AutoAugment (Cubuk et al. 2019, arXiv 1805.09501): torchvision's operations, draws of our own.

A policy is 25 pairs of operations, each with a probability and a strength; an image gets one pair.
The pair, whether each operation is done and its sign are drawn by (seed, epoch, index, view), so a
view depends neither on its batch nor on who makes it. Operations are torchvision's for uint8, one
image at a time: worker processes make them (`data/loaders/workers.py`). What an operation moves in
from outside is black, pixels are taken from the nearest place, as is torchvision's default.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssgear.data.augment.spec import Policy
from ssgear.kernels import philox


def apply_policy(
    crops: Tensor,
    flip: Tensor,
    policy: Policy,
    *,
    seed: int,
    epoch: int,
    indices: Tensor,
    view: int,
) -> Tensor:
    """Return crops [n, 3, h, w] uint8 changed as if those with `flip` [n] were mirrored before.

    They come back as they lie in the image: `finish` mirrors them, and mirroring is exact. Crops on
    a GPU stay there (untested on hardware).
    """
    # torchvision takes a second to import, which a run without a policy should not pay for
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    key = philox.derive_key(seed, epoch, view, "autoaugment")
    draws = philox.uniform(key, indices.cpu(), 5)
    transform: Any = AutoAugment(AutoAugmentPolicy(policy))
    changed = torch.empty_like(crops)
    for row, (crop, mirrored) in enumerate(zip(crops, flip.tolist(), strict=True)):
        drawn = _parameters(draws[row], len(transform.policies))
        transform.get_params = lambda _, drawn=drawn: drawn
        changed[row] = _mirror(transform(_mirror(crop, mirrored)), mirrored)
    return changed


def _parameters(draws: Tensor, num_pairs: int) -> tuple[int, Tensor, Tensor]:
    """Return what torchvision draws: the pair, two numbers in [0, 1), two signs (0 is minus)."""
    return int(draws[0] * num_pairs), draws[1:3], (draws[3:] >= 0.5).long()


def _mirror(crop: Tensor, mirrored: bool) -> Tensor:
    return crop.flip(-1) if mirrored else crop
