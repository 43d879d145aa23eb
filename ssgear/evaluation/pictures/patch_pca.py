"""What the patches of images have in common: their first three principal components as colours.

As DINOv2 shows it (Oquab et al. 2023, arXiv 2304.07193): features of the patches after the last
norm, of all images together, centred, projected on their first three principal components. Parts
that are alike get one colour, also across images.

    colours_NhwC = patch_pca(load_encoder("runs/vit"), images)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssgear.evaluation.pictures.patches import batches, not_a_transformer, patch_grid
from ssgear.models.encoders import Normalized
from ssgear.models.modes import evaluating

COLOURS = 3
LEAST_VARIANCE = 1e-10
"""Share of the first component's variance below which a component is noise of rounding."""


@torch.no_grad()
def patch_pca(encoder: Normalized, images_NCHW: Tensor) -> Tensor:
    """Return the first three principal components of the patches, uint8 [N, h, w, 3].

    Red is the first component, scaled so that it reaches from 0 to 255 over all images. The sign is
    such that the weight of largest magnitude is positive. A component without variance is 0.

    Args:
        encoder: With a vision transformer of timm; it runs in evaluation mode.
        images_NCHW: Uint8 [N, 3, S, S], or float in [0, 1]; of the encoder's size.

    Raises:
        ArgumentError: the images have another shape, size or type.
        ConfigError: the network is no vision transformer.
    """
    grid = patch_grid(encoder, images_NCHW)
    network: Any = encoder.encoder.network
    parts: list[Tensor] = []
    with evaluating(encoder):
        for images in batches(images_NCHW, encoder):
            tokens = network.forward_features(encoder.normalize(images))
            if tokens.ndim != 3 or tokens.shape[1] != grid.num_tokens:
                raise not_a_transformer(encoder)
            parts.append(tokens[:, grid.prefix :].cpu())
    patches_NPC = torch.cat(parts)
    colours = to_colours(principal_components(patches_NPC.flatten(0, 1)))
    return colours.view(len(patches_NPC), grid.height, grid.width, COLOURS)


def principal_components(rows_MC: Tensor) -> Tensor:
    """Return rows [M, 3] float64 on their first principal components; missing ones are 0."""
    centred = rows_MC.double() - rows_MC.double().mean(0)
    variances, vectors = torch.linalg.eigh(centred.T @ centred)
    # eigh has the largest last
    variances, vectors = variances.flip(0)[:COLOURS], vectors.flip(1)[:, :COLOURS]
    largest = vectors.abs().argmax(0, keepdim=True)
    vectors = vectors * vectors.gather(0, largest).sign()
    vectors = vectors * (variances > LEAST_VARIANCE * variances[0].clamp_min(1e-300))
    components = torch.zeros(len(centred), COLOURS, dtype=torch.float64)
    components[:, : vectors.shape[1]] = centred @ vectors
    return components


def to_colours(components_MC: Tensor) -> Tensor:
    """Return each column scaled from 0 to 255, uint8; a constant column is 0."""
    low, high = components_MC.min(0).values, components_MC.max(0).values
    span = torch.where(high > low, high - low, 1.0)
    return ((components_MC - low) / span * 255).round().to(torch.uint8)
