"""Invariance: how little features move when an image is augmented, by kind and strength.

    curves = invariance(encode, images, size=224, seed=0)
    curves["hue"]                  # [(0.25, 0.98), (0.5, 0.96), (0.75, 0.93), (1.0, 0.9)]

A figure is 1 - d_augmented / d_images: the mean squared distance between the features of an image
and of its augmented copy, over that between two different images, all features of unit length. It
is 1 if features do not move and 0 if a copy is as far away as another image. As the squared
distance is 2 - 2 cos, that is (c - c_images) / (1 - c_images) with c the mean cosine similarity. A
cosine alone says little: where all features share a large mean, any two images have a high one.

Strength 1 is the range of SimCLR on ImageNet (Chen et al. 2020, arXiv 2002.05709), each kind alone
and applied to every image; strength s has s times its range. Mirror images and the loss of color
have no strength but 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.data.augment import AugmentSpec, augment
from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import Rows

Encode = Callable[[Tensor], Tensor]
"""Returns features [n, F] of images uint8 [n, 3, size, size]."""
Curve = list[tuple[float, float]]
"""Strength and figure."""
MAX_IMAGES = 2000
"""Images that are taken, evenly spread."""
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
KINDS = ("crop", "flip", "brightness", "contrast", "saturation", "hue", "grey", "blur")
UNGRADED = ("flip", "grey")
"""Kinds that an image has or has not."""
_FULL = AugmentSpec.named("simclr")
"""Ranges of strength 1."""


def invariance(
    encode: Encode,
    images: Rows,
    *,
    size: int,
    seed: int = 0,
    max_images: int = MAX_IMAGES,
    strengths: Sequence[float] = STRENGTHS,
    batch_size: int = 250,
) -> dict[str, Curve]:
    """Return the figures of every kind of augmentation by strength.

    A draw of an augmentation depends on the seed and the image only: strengths share it.

    Args:
        encode: The encoder; it is called 27 times per image with the default strengths.
        images: uint8 [N, 3, H, W].
        size: Side of the encoder's images in pixels.
        seed: Seed of the augmentations.
        max_images: Most images that are taken, evenly spread.
        strengths: In (0, 1].
        batch_size: Images that are in memory at a time.

    Raises:
        ArgumentError: there are fewer than two images, a strength is not possible, or all images
            have the same features.
        DataError: features are not finite.
    """
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise ArgumentError(f"invariance: strengths must be in (0, 1] (got {tuple(strengths)})")
    count = min(len(images), max_images)
    if count < 2:
        raise ArgumentError(f"invariance: needs at least 2 images (got {count})")
    rows = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
    specs = {
        (kind, strength): _spec(kind, strength)
        for kind in KINDS
        for strength in (strengths if kind not in UNGRADED else (1.0,))
    }
    similar = dict.fromkeys(specs, 0.0)
    total_F: Tensor | None = None
    for ids in torch.split(rows, batch_size):
        batch = images[ids]

        def features(spec: AugmentSpec, batch: Tensor = batch, ids: Tensor = ids) -> Tensor:
            views = augment(
                batch, spec, size=size, seed=seed, epoch=0, indices=ids, view=0, dtype=torch.uint8
            )
            return _unit(encode(views), ids)

        plain = features(AugmentSpec())
        total_F = plain.sum(0) if total_F is None else total_F + plain.sum(0)
        for key, spec in specs.items():
            similar[key] += float((plain * features(spec)).sum())
    assert total_F is not None
    # rows have length 1: of all pairs without those of a row with itself
    between = (float(total_F.square().sum()) - count) / (count * (count - 1))
    if not 1 - between > 1e-9:
        raise ArgumentError("invariance: all images have the same features")
    curves: dict[str, Curve] = {kind: [] for kind in KINDS}
    for (kind, strength), cosine in similar.items():
        curves[kind].append((strength, (cosine / count - between) / (1 - between)))
    return curves


def _spec(kind: str, strength: float) -> AugmentSpec:
    """Return one augmentation alone, on every image."""
    if kind == "crop":
        assert _FULL.crop_scale is not None
        narrow, wide = (ratio**strength for ratio in _FULL.crop_ratio)
        least = 1 - strength * (1 - _FULL.crop_scale[0])
        return AugmentSpec(crop_scale=(least, 1.0), crop_ratio=(narrow, wide))
    if kind == "flip":
        return AugmentSpec(flip=1.0)
    if kind == "grey":
        return AugmentSpec(grey=1.0)
    if kind == "blur":
        low, high = _FULL.blur_sigma
        return AugmentSpec(blur=1.0, blur_sigma=(low, low + strength * (high - low)))
    amount = strength * getattr(_FULL, kind)
    return AugmentSpec(jitter=1.0, **{kind: amount})


def _unit(features: Tensor, rows: Tensor) -> Tensor:
    """Return features of unit length, float64 on the CPU."""
    features = features.detach().cpu().double()
    bad = ~features.isfinite().all(1)
    if bool(bad.any()):
        row = int(rows[bad][0])
        raise DataError(f"invariance: the features of image {row} are not finite")
    return F.normalize(features, dim=1, eps=1e-30)
