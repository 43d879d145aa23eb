"""What stands for Inception where its features are not what is tested."""

from __future__ import annotations

from torch import Tensor, nn


class Patches(nn.Module):
    """Every eighth pixel of an image that is shown at 16."""

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1] // 16
        return images[:, :, :: 8 * side, :: 8 * side].flatten(1).float()
