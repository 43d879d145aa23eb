"""Exemplar-CNN's transformations of a patch (Dosovitskiy et al. 2014, arXiv 1406.6909, 2.1).

Translation, scaling, rotation, contrast 1 (along the principal components of the colours),
contrast 2 (powers, factors and offsets of saturation and value) and colour (hue), in this order and
with the published ranges. A patch is the middle of an image; what moves into it comes from around
it, and where the image ends it is reflected. The paper leaves these open: ranges around 1 are drawn
uniformly in their logarithm, saturation and value have draws of their own, colours are projected as
they deviate from the mean, and a pixel without chroma has no hue and stays grey.

    patches = augment_patches(images, PatchSpec(), size=32, seed=0, epoch=3, indices=index, view=0)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.data.augment.spec import IMAGENET_MEAN, IMAGENET_STD, Range
from ssgear.errors import ArgumentError
from ssgear.kernels import philox

Row = tuple[float, float, float]
OPPONENT: tuple[Row, Row, Row] = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, 0.0, -(2**-0.5)),
    (-(6**-0.5), 2 * 6**-0.5, -(6**-0.5)),
)
"""Brightness, red against blue, green against both: the principal components of natural colours,
nearly (Ohta, Kanade and Sakai 1980)."""


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """Ranges of the transformations; the defaults are the published ones."""

    translation: float = 0.2
    """Largest shift down and right, either way, as a share of the patch's side."""
    scale: Range = (0.7, 1.4)
    """Factor of the side of the region that becomes the patch."""
    rotation: float = 20.0
    """Largest angle in degrees, either way."""
    projection: Range = (0.5, 2.0)
    """Factor of a colour's projection onto each principal component (contrast 1)."""
    power: Range = (0.25, 4.0)
    """Exponent of saturation and of value (contrast 2)."""
    factor: Range = (0.7, 1.4)
    """Factor of both after that."""
    offset: float = 0.1
    """Largest number added to both after that, either way; they lie in [0, 1]."""
    hue: float = 0.1
    """Largest turn of the hue, either way, as a share of the colour circle."""
    components: tuple[Row, Row, Row] = OPPONENT
    """Orthonormal principal components of the colours; `principal_components` finds a set's own."""
    mean: Row = IMAGENET_MEAN
    """Channel means, of images in [0, 1]: projections start there, and they are subtracted."""
    std: Row = IMAGENET_STD
    """Channel deviations that are divided by."""

    def __post_init__(self) -> None:
        """Refuse inverted ranges, and components that are not orthonormal."""
        for name in ("scale", "projection", "power", "factor"):
            low, high = getattr(self, name)
            self._require(0 < low <= high < math.inf, name, "use (low, high) with 0 < low <= high")
        for name, most in (("translation", 1), ("rotation", 180), ("offset", 1), ("hue", 0.5)):
            self._require(0 <= getattr(self, name) <= most, name, f"use a value in [0, {most}]")
        self._require(
            orthonormal(self.components), "components", "give three orthonormal rows of three"
        )
        self._require(len(self.mean) == 3, "mean", "give three values")
        self._require(len(self.std) == 3 and min(self.std) > 0, "std", "give three values above 0")

    def _require(self, condition: bool, name: str, right: str) -> None:
        if not condition:
            value = getattr(self, name)
            raise ArgumentError(f"PatchSpec.{name}: {value} is not possible; {right}")


@dataclass(frozen=True, kw_only=True)
class PatchParams:
    """The random parameters of n patches, float32; row i of every field belongs to patch i."""

    shift: Tensor
    """[n, 2]: how far the region lies below and right of the middle, in sides of the patch."""
    scale: Tensor
    """[n]: side of the region, in sides of the patch."""
    angle: Tensor
    """[n]: counterclockwise turn of what is seen, in radians."""
    projection: Tensor
    """[n, 3]: factors along the principal components."""
    power: Tensor
    """[n, 2]: exponents of saturation and value."""
    factor: Tensor
    """[n, 2]: factors of saturation and value."""
    offset: Tensor
    """[n, 2]: what is added to saturation and value."""
    hue: Tensor
    """[n]: turn of the hue, in turns."""

    def to(self, device: torch.device | str) -> PatchParams:
        """Return the same on a device."""
        fields = dataclasses.fields(self)
        return PatchParams(**{field.name: getattr(self, field.name).to(device) for field in fields})


def sample_patches(
    spec: PatchSpec, *, seed: int, epoch: int, indices: Tensor, view: int
) -> PatchParams:
    """Draw the parameters of the patches at `indices` [n] int64 of the data set.

    Row i depends on the seed, the epoch, the view and indices[i] only.
    """
    key = philox.derive_key(seed, epoch, view, "patch")
    draws = philox.uniform(key, indices, 14).double()

    def either_way(most: float, columns: slice) -> Tensor:
        return (most * (2 * draws[:, columns] - 1)).float()

    def around_one(between: Range, columns: slice) -> Tensor:
        low, high = between
        return (math.log(low) + math.log(high / low) * draws[:, columns]).exp().float()

    return PatchParams(
        shift=either_way(spec.translation, slice(0, 2)),
        scale=around_one(spec.scale, slice(2, 3))[:, 0],
        angle=either_way(math.radians(spec.rotation), slice(3, 4))[:, 0],
        projection=around_one(spec.projection, slice(4, 7)),
        power=around_one(spec.power, slice(7, 9)),
        factor=around_one(spec.factor, slice(9, 11)),
        offset=either_way(spec.offset, slice(11, 13)),
        hue=either_way(spec.hue, slice(13, 14))[:, 0],
    )


def augment_patches(
    images: Tensor,
    spec: PatchSpec,
    *,
    size: int,
    seed: int,
    epoch: int,
    indices: Tensor,
    view: int,
) -> Tensor:
    """Return one transformed patch [N, 3, size, size] float32 of each image, normalised.

    `images` [N, 3, H, W] are uint8, or float in [0, 1]. The patch is their middle; with the
    published ranges it sees up to 2.2 times its side, which they should have.
    """
    params = sample_patches(spec, seed=seed, epoch=epoch, indices=indices, view=view)
    return transform_patches(images, params, spec, size=size)


@torch.no_grad()
def transform_patches(images: Tensor, params: PatchParams, spec: PatchSpec, *, size: int) -> Tensor:
    """Return what the given parameters make of the patches, as `augment_patches` does.

    On a GPU untested on hardware; last bits may differ there.
    """
    _check(images, params, size)
    params = params.to(images.device)
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    patches = F.grid_sample(
        pixels, _places(params, size, images), padding_mode="reflection", align_corners=False
    )
    # products in bfloat16 would shift colours, and saturation raised to a power make much of that
    with torch.autocast(images.device.type, enabled=False):
        patches = _contrast(patches, params.projection, spec)
    patches = _recolour(patches, params)
    mean, std = (patches.new_tensor(row).reshape(1, 3, 1, 1) for row in (spec.mean, spec.std))
    return (patches - mean) / std


def orthonormal(rows: Sequence[Sequence[float]]) -> bool:
    """Whether three rows of three numbers are of length 1 and at right angles, to a thousandth."""
    if [len(row) for row in rows] != [3, 3, 3]:
        return False
    axes = torch.tensor(rows, dtype=torch.float64)
    return bool((axes @ axes.T - torch.eye(3)).abs().max() < 1e-3)


def principal_components(images: Tensor) -> tuple[Row, Row, Row]:
    """Return the principal components of the colours of images [N, 3, H, W], the largest first."""
    colours = images.double().movedim(1, 0).flatten(1)
    _, vectors = torch.linalg.eigh(colours.cov())
    first, second, third = vectors.flip(1).T.tolist()
    return tuple(first), tuple(second), tuple(third)


def _places(params: PatchParams, size: int, images: Tensor) -> Tensor:
    """Return where each pixel of a patch is taken from: [n, size, size, 2], x before y.

    In the units of `grid_sample`: -1 and 1 are the outer edges of the image.
    """
    height, width = images.shape[2:]
    steps = torch.arange(size, device=images.device).double() - (size - 1) / 2
    scale, angle = params.scale.double()[:, None, None], params.angle.double()[:, None, None]
    down, right = (size * params.shift.double())[..., None, None].unbind(1)
    y, x = scale * steps[:, None], scale * steps[None, :]
    across = right + x * angle.cos() - y * angle.sin()
    along = down + x * angle.sin() + y * angle.cos()
    return torch.stack((across * 2 / width, along * 2 / height), dim=-1).float()


def _contrast(patches: Tensor, factors: Tensor, spec: PatchSpec) -> Tensor:
    """Stretch colours [n, 3, h, w] along the principal components (contrast 1)."""
    axes = patches.new_tensor(spec.components)
    mean = patches.new_tensor(spec.mean).reshape(1, 3, 1, 1)
    stretch_n33 = axes.T @ (factors[..., None] * axes)
    return (torch.einsum("nij,njhw->nihw", stretch_n33, patches - mean) + mean).clamp(0, 1)


def _recolour(patches: Tensor, params: PatchParams) -> Tensor:
    """Change saturation and value, and turn the hue, of colours in [0, 1]."""
    value = patches.amax(1)
    chroma = value - patches.amin(1)
    hue = _hue(patches, value, chroma) + 6 * params.hue[:, None, None]
    saturation = chroma / value.clamp(min=1e-6)

    def changed(channel: Tensor, number: int) -> Tensor:
        power, factor, offset = (
            row[:, number, None, None] for row in (params.power, params.factor, params.offset)
        )
        return (channel.pow(power) * factor + offset).clamp(0, 1)

    # below one step of 8 bits a hue is noise: it fades there, down to none
    saturation = changed(saturation, 0) * (chroma * 255).clamp(max=1)
    value = changed(value, 1)
    # a channel falls from 1 to 0 between one and two sextants away from its own hue
    away = [((hue - 2 * channel + 3).remainder(6) - 3).abs() for channel in range(3)]
    pure = torch.stack([(2 - distance).clamp(0, 1) for distance in away], dim=1)
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))


def _hue(patches: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """Return the hue [n, h, w] in sextants from red."""
    red, green, blue = patches.unbind(1)
    chroma = chroma.clamp(min=1e-6)
    from_red, from_green = (green - blue) / chroma, 2 + (blue - red) / chroma
    from_blue = 4 + (red - green) / chroma
    return torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))


def _check(images: Tensor, params: PatchParams, size: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ArgumentError(f"augment_patches: images {tuple(images.shape)}; give [N, 3, H, W]")
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ArgumentError(
            f"augment_patches: images are {images.dtype}; give uint8, or float in [0, 1]"
        )
    if len(params.scale) != len(images):
        raise ArgumentError(
            f"augment_patches: {len(params.scale)} indices for {len(images)} images; give one each"
        )
    if size < 1:
        raise ArgumentError(f"augment_patches: size {size} is not possible; use at least 1 pixel")
