"""Features of images by a frozen encoder, and raw pixels as the features that cost nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.models.modes import evaluating

PIXEL_SIDE = 32


@torch.no_grad()
def extract(
    encoder: nn.Module,
    images: Tensor | Iterable[Tensor],
    *,
    batch_size: int = 500,
    device: torch.device | None = None,
) -> Tensor:
    """Return features [N, F] float32 on the CPU; the encoder runs in evaluation mode.

    `images` is uint8 [N, 3, H, W] or an iterable of such batches. Modes are restored afterwards.
    """
    batches = _slices(images, batch_size) if isinstance(images, Tensor) else images
    with evaluating(encoder):
        parts = [encoder(batch if device is None else batch.to(device)) for batch in batches]
        return torch.cat([part.float().cpu() for part in parts])


def pixels(images: Tensor) -> Tensor:
    """Return raw pixels in [0, 1] as features [N, 3 s s], s at most 32 (larger ones by area)."""
    if max(images.shape[-2:]) <= PIXEL_SIDE:
        return images.flatten(1).float() / 255
    parts = [
        F.interpolate(part.float() / 255, size=(PIXEL_SIDE, PIXEL_SIDE), mode="area").flatten(1)
        for part in _slices(images, 500)
    ]
    return torch.cat(parts)


def _slices(images: Tensor, size: int) -> list[Tensor]:
    return [images[start : start + size] for start in range(0, len(images), size)]
