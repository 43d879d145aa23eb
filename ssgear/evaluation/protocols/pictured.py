"""Protocols that draw what a vision transformer attends to, and what its patches have in common."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ConfigError
from ssgear.evaluation.pictures.attention import attention_maps
from ssgear.evaluation.pictures.patch_pca import patch_pca as draw_patch_pca
from ssgear.evaluation.protocols.registry import protocol
from ssgear.evaluation.results import Exhibit, Outcome
from ssgear.evaluation.subject import Subject
from ssgear.models.encoders import Normalized

SHOWN = 8
"""Test images, evenly spread."""
HEADS = 6
"""Heads of attention that are shown."""


def transformer_of(subject: Subject) -> object:
    """Need a vision transformer."""
    network = getattr(getattr(subject.encoder, "encoder", None), "network", None)
    if not hasattr(network, "blocks") or not hasattr(network, "patch_embed"):
        raise ConfigError(
            "--protocol: attention and patch-pca are for vision transformers such as "
            "vit_small_patch16_224; this encoder is none"
        )
    return network


@protocol("attention", needs=transformer_of, reads_features=False)
def attention(subject: Subject) -> Outcome:
    """Attention of the class token in the last block, head by head."""
    encoder, images = _shown(subject)
    maps = attention_maps(encoder, images.to(subject.device)).float().cpu()[:, :HEADS]
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    grey = (255 * (maps - low) / (high - low).clamp_min(1e-12)).round().to(torch.uint8)
    large = F.interpolate(grey, size=images.shape[-2:], mode="nearest")
    rows = torch.stack([images, *large[:, :, None].expand(-1, -1, 3, -1, -1).unbind(1)], dim=1)
    names = ["image", *(f"head {head}" for head in range(maps.shape[1]))]
    return _pictures("Attention of the class token in the last block", rows, names)


@protocol("patch-pca", needs=transformer_of, reads_features=False)
def patch_pca(subject: Subject) -> Outcome:
    """Three principal components of the patches' features as colours."""
    encoder, images = _shown(subject)
    colours = draw_patch_pca(encoder, images.to(subject.device)).cpu().permute(0, 3, 1, 2)
    large = F.interpolate(colours, size=images.shape[-2:], mode="nearest")
    rows = torch.stack([images, large], dim=1)
    return _pictures("Principal components of the patches", rows, ["image", "components"])


def _shown(subject: Subject) -> tuple[Normalized, Tensor]:
    assert isinstance(subject.encoder, Normalized)
    images = subject.data.test_images
    count = min(SHOWN, len(images))
    return subject.encoder, images[torch.linspace(0, len(images) - 1, count).round().long()]


def _pictures(title: str, rows: Tensor, columns: list[str]) -> Outcome:
    """Return rows [R, C, 3, H, W] of pictures as [R, C, H, W, 3]."""
    exhibit = Exhibit(
        kind="pictures",
        title=title,
        fields={"columns": columns},
        tensors={"images": rows.permute(0, 1, 3, 4, 2).contiguous()},
    )
    return Outcome(exhibits=(exhibit,))
