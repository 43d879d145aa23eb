"""How much of an image is foreground, and the noise level that follows from it.

The idea is GenView's (Li et al. 2024, arXiv 2403.12003): the noise on the image condition is chosen
for each image by its share of foreground, which a principal component of a frozen encoder's patch
features shows. A large subject can bear much noise and stays what it is; of a small one the
background would take over. From the paper: that rule, levels 0, 100, 200, 300, 400 for fifths of
the share. Ours: the features are those of the image encoder of the pipeline itself; the component
is taken from the patches of one image, so that a view depends on its own image only; of its two
sides the one with less of the image's border is foreground. Written from memory of the paper and
not compared with its code: its exact mapping is unverified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = (0, 100, 200, 300, 400)


def foreground_share(features: Tensor) -> Tensor:
    """Return the share [n] float64 of patches that are foreground, of features [n, P, P, C]."""
    import torch

    n, height, width, channels = features.shape
    # of an overflow nothing is known: no foreground, and no decomposition, which it would end
    finite = features.isfinite().flatten(1).all(1)
    features = torch.where(finite[:, None, None, None], features, torch.zeros_like(features))
    flat = features.double().cpu().reshape(n, height * width, channels)
    flat = flat - flat.mean(1, keepdim=True)
    _, strength, directions = torch.linalg.svd(flat, full_matrices=False)
    side = (flat @ directions[:, :1].mT).squeeze(-1) > 0
    border = torch.ones(height, width, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    on_border = border.reshape(-1)
    # which sign the component has is chance: the foreground is where the border mostly is not
    shares = [
        (each[:, on_border].double().mean(1), each.double().mean(1)) for each in (side, ~side)
    ]
    (first_border, first), (other_border, other) = shares
    found = torch.where(first_border <= other_border, first, other)
    has_parts = strength[:, 0] > 1e-9 * (1 + features.double().cpu().abs().amax((1, 2, 3)))
    return torch.where(has_parts, found, torch.zeros_like(found))


def noise_level(share: float) -> int:
    """Return the level for a share of foreground in [0, 1]."""
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]
