"""What StyleGAN's training does with styles: mixing two of them, and keeping their paths even.

Style mixing is that of Karras et al. 2019 (arXiv 1812.04948), the path-length penalty that of
Karras et al. 2020 (1912.04958). Shapes: N images, L styles of an image, W numbers of a style.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError

LENGTH_DECAY = 0.99


def mix_styles(
    first_NLW: Tensor, second_NLW: Tensor, draws_N2: Tensor, probability: float
) -> Tensor:
    """Give some images the second styles from a random layer on; layer 0 keeps the first.

    Args:
        first_NLW: Styles of the first layers.
        second_NLW: Styles of the layers from the crossover on.
        draws_N2: Uniform in [0, 1): whether an image is mixed, and where it crosses over.
        probability: Share of the images that are mixed.
    """
    rows, layers, _ = first_NLW.shape
    if draws_N2.shape != (rows, 2) or second_NLW.shape != first_NLW.shape:
        raise ArgumentError(
            f"mixing: styles {tuple(first_NLW.shape)} and {tuple(second_NLW.shape)} with draws "
            f"{tuple(draws_N2.shape)}, expected two of one shape [N, L, W] and [N, 2]"
        )
    crossover_N = 1 + (draws_N2[:, 1] * (layers - 1)).long()
    crossover_N = torch.where(draws_N2[:, 0] < probability, crossover_N, layers)
    layer_L = torch.arange(layers, device=first_NLW.device)
    second = layer_L[None, :, None] >= crossover_N[:, None, None]
    return torch.where(second, second_NLW, first_NLW)


class PathLength(nn.Module):
    """Penalty on how unevenly images move with their styles.

    mean_i (||J_i^T y_i|| - a)^2 with y normal noise over the image and a the running mean of the
    lengths. The mean is a buffer: `forward` reads it, `track` moves it after a step really taken.
    """

    mean: Tensor

    def __init__(self) -> None:
        """Start at a mean of zero, as the paper does."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, styles_NLW: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Return the penalty without its weight, and the batch's mean length, detached.

        Args:
            images: [N, 3, R, R], computed from `styles_NLW`.
            styles_NLW: What the images are differentiated by.
            normal: Standard normal noise of the images' shape.
        """
        if normal.shape != images.shape:
            raise ArgumentError(
                f"normal: {tuple(normal.shape)}, expected that of images {tuple(images.shape)}"
            )
        pixels = math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad(
            (images * normal).sum() / pixels, styles_NLW, create_graph=True
        )
        lengths_N = _root(gradient.square().sum(dim=2).mean(dim=1))
        length = lengths_N.detach().mean()
        target = self.mean.lerp(length.to(self.mean), 1 - LENGTH_DECAY)
        return (lengths_N - target).square().mean(), length

    @torch.no_grad()
    def track(self, length: Tensor) -> None:
        """Move the running mean towards the mean length of a batch."""
        self.mean.lerp_(length.to(self.mean), 1 - LENGTH_DECAY)


def _root(squared: Tensor) -> Tensor:
    """Return the square root, with a gradient of 0 where it is 0."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
