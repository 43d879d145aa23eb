"""The random parameters of views: drawn by Philox and packed as the fused augmentation takes them.

A row depends on the seed, the epoch, the view and the image's index alone. On the CPU
csrc/augment_params.cpp draws and packs a batch in one call; `drawn_reference` is the same in tensor
arithmetic, for GPUs and where the C++ was not built. Under torch.compile both stand behind one
operator, `ssgear::augment_params`, so that another epoch is not another graph.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.data.augment.spec import AugmentSpec
from ssgear.errors import ArgumentError, refusing
from ssgear.kernels import philox
from ssgear.kernels.augment import colour
from ssgear.kernels.augment.params import BOX, COLUMNS, FLIP

TRIES = 10
"""Boxes that are tried before the central crop is taken, as in torchvision."""


@dataclass(frozen=True)
class AugmentParams:
    """The random parameters of n views; row i of every one belongs to image i."""

    packed: Tensor
    """[n, 16] float32: all of them (`kernels/augment/params.py`)."""

    @property
    def box(self) -> Tensor:
        """[n, 4] float32: top, left, height, width of the crop, whole pixels of the image."""
        return self.packed[:, BOX]

    @property
    def flip(self) -> Tensor:
        """[n] bool: mirror left and right."""
        return self.packed[:, FLIP] != 0


def sample(
    spec: AugmentSpec,
    *,
    seed: int,
    epoch: int,
    indices: Tensor,
    view: int,
    heights: Tensor,
    widths: Tensor,
) -> AugmentParams:
    """Draw the parameters of one view of the images at `indices` [n] int64 of the data set.

    `heights` and `widths` [n] are the images' sizes in pixels. Row i depends on the seed, the
    epoch, the view and indices[i] only. A draw keeps its place whatever the specification, so that
    two that differ in one entry share all other draws.

    Raises:
        ArgumentError: In one line, for arguments that do not fit together.
    """
    check_indices("sample", indices)
    for name, sides in (("heights", heights), ("widths", widths)):
        if sides.shape != indices.shape or sides.is_floating_point() or sides.is_complex():
            raise ArgumentError(
                f"sample: {name} {tuple(sides.shape)} {sides.dtype} for {len(indices)} indices; "
                "give one whole number of pixels for each"
            )
        if sides.device.type == "cpu" and len(sides) and int(sides.min()) < 1:
            raise ArgumentError(
                f"sample: {name} has {int(sides.min())}; an image has at least 1 pixel"
            )
    return draw(spec, (seed, epoch, view), indices, heights, widths)


def draw(
    spec: AugmentSpec, keys: tuple[int, int, int], indices: Tensor, heights: Tensor, widths: Tensor
) -> AugmentParams:
    """Draw what `sample` draws, of arguments that are right; `keys` are seed, epoch and view."""
    drawing = (*keys, indices, heights, widths, spec.numbers())
    if torch.compiler.is_compiling():
        packed: Tensor = torch.ops.ssgear.augment_params(*drawing)
        return AugmentParams(packed)
    return AugmentParams(_drawn(*drawing))


def check_indices(function: str, indices: Tensor, count: int | None = None) -> None:
    """Refuse indices that are not int64 [n], or not one for each of `count` images."""
    wrong = indices.ndim != 1 or indices.dtype != torch.int64
    if wrong or (count is not None and len(indices) != count):
        images = "" if count is None else f" for {count} images"
        raise ArgumentError(
            f"{function}: indices {tuple(indices.shape)} {indices.dtype}{images}; "
            "give one int64 for each image"
        )


def drawn_reference(
    key: int, indices: Tensor, heights: Tensor, widths: Tensor, numbers: Sequence[float]
) -> Tensor:
    """Return the packed parameters [n, 16], in tensor arithmetic on the device of `indices`."""
    draws = philox.uniform(key, indices, 16 + 2 * TRIES)
    flip, jitter, grey, blur, solarise = numbers[:5]
    strength = draws.new_tensor(numbers[5:9])
    neutral = draws.new_tensor(colour.IDENTITY)
    low = torch.where(neutral > 0, (neutral - strength).clamp(min=0), -strength)
    factors = low + (neutral + strength - low) * draws[:, 5:9]
    sigma = numbers[9] + numbers[10] * draws[:, 9]
    columns = (
        _boxes(numbers[11:], draws[:, 14:16], draws[:, 16:], heights, widths),
        draws[:, 0] < flip,
        torch.where(draws[:, 1:2] < jitter, factors, neutral),
        draws[:, 10:14].argsort(dim=1, stable=True),
        draws[:, 2] < grey,
        torch.where(draws[:, 3] < blur, sigma, 0.0),
        draws[:, 4] < solarise,
    )
    return torch.column_stack([each.float() for each in columns])


def _drawn(
    seed: int,
    epoch: int,
    view: int,
    indices: Tensor,
    heights: Tensor,
    widths: Tensor,
    numbers: Sequence[float],
) -> Tensor:
    """Return the packed parameters by the fastest form."""
    # operator.index: a whole number of NumPy has the key of Python's
    names = {"seed": seed, "epoch": epoch, "view": view}
    with refusing(TypeError, lambda _: ArgumentError(f"augment: {names}; give whole numbers")):
        key = philox.derive_key(*map(operator.index, names.values()), "augment")
    if philox.is_fast(indices) and heights.device == widths.device == indices.device:
        packed: Tensor = torch.ops.ssgear_native.augment_params(
            philox.signed(key), indices, heights, widths, numbers
        )
        return packed
    return drawn_reference(key, indices, heights, widths, numbers)


_operator = torch.library.custom_op("ssgear::augment_params", _drawn, mutates_args=())
"""Draws while a compiled graph runs."""


@_operator.register_fake
def _(seed: int, epoch: int, view: int, indices: Tensor, *_: object) -> Tensor:
    """Tell torch.compile what to expect."""
    return indices.new_empty((len(indices), COLUMNS), dtype=torch.float32)


def _boxes(
    crop: Sequence[float], place: Tensor, tries: Tensor, heights: Tensor, widths: Tensor
) -> Tensor:
    """Return the crops, as torchvision's RandomResizedCrop chooses them, all tries at once."""
    height, width = heights.to(place.device).double(), widths.to(place.device).double()
    if not crop:
        nothing = torch.zeros_like(height)
        return torch.stack((nothing, nothing, height, width), dim=1).float()
    small, spread, narrow, wide, log_narrow, log_spread = crop
    # float64: a rounding that fell otherwise on another device would move the whole crop
    area_draw, ratio_draw = tries.double().chunk(2, dim=1)
    area = (small + spread * area_draw) * (height * width)[:, None]
    ratio = (log_narrow + log_spread * ratio_draw).exp()
    central_height = torch.minimum(height, (width / narrow).round()).clamp(min=1)
    central_width = torch.minimum(width, (height * wide).round()).clamp(min=1)
    tall = torch.cat(((area / ratio).sqrt().round(), central_height[:, None]), dim=1)
    broad = torch.cat(((area * ratio).sqrt().round(), central_width[:, None]), dim=1)
    fits = (tall > 0) & (tall <= height[:, None]) & (broad > 0) & (broad <= width[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, broad = tall.gather(1, first)[:, 0], broad.gather(1, first)[:, 0]
    spare = torch.stack((height - tall, width - broad), dim=1)
    corner = torch.where(first == TRIES, spare / 2, place.double() * (spare + 1)).floor()
    return torch.stack((*corner.unbind(1), tall, broad), dim=1).float()
