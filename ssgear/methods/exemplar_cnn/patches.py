"""Seed patches of Exemplar-CNN: parts of images where the gradient is strong.

A patch is drawn with a probability proportional to the mean squared length of its gradient
(Dosovitskiy et al. 2014, arXiv 1406.6909, section 2). What the paper leaves open: the gradient is
of central differences, its square the mean over the channels; patches start at multiples of half
their side, so that two of an image share half of their pixels at most; an image gives a second
patch only after every image has given one. All draws are Philox's, keyed by (seed, image).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ssgear.data.sources.decode import BadImageError, to_tensor
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import BadFile, Images, Source
from ssgear.kernels import philox

POOL = 4
"""Images that are looked at for each patch wanted; the others of a large set are not read."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Patches that were drawn."""

    rows: Tensor
    """[K, 3] int64: the image of each, and its top and left in pixels."""
    available: int
    """Patches that there were to draw from."""
    bad: tuple[BadFile, ...] = ()
    """Images that could not be read."""


def gradient_energy(image: Tensor) -> Tensor:
    """Return the squared length of the gradient [H, W] float64 of an image [3, H, W] uint8."""
    down, right = torch.gradient(image.double() / 255, dim=(1, 2))
    return (down.square() + right.square()).mean(0)


def candidates(image: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return where patches of an image can lie [P, 2] (top, left), and the energy [P] of each.

    Patches without any gradient are left out.
    """
    step = max(1, side // 2)
    if min(image.shape[1:]) < side:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    means = F.avg_pool2d(gradient_energy(image)[None], side, stride=step)[0]
    places = (means > 1e-12).nonzero()
    return places * step, means[places[:, 0], places[:, 1]]


def draw_patches(source: Source, count: int, *, side: int, seed: int) -> Places:
    """Draw `count` patches of that side, fewer where there are not so many.

    Every candidate waits for an exponential time, at a rate of its energy: the order in which they
    come is a draw without replacement, in proportion to the energies.
    """
    found: list[Tensor] = []
    bad: list[BadFile] = []
    for index in philox.permutation(philox.derive_key(seed, "patch images"), len(source)).tolist():
        try:
            image = to_tensor(source.image(index))
        except BadImageError as error:
            bad.append(BadFile(source.full_name(index), str(error)))
            continue
        places, energy = candidates(image, side)
        if len(places):
            found.append(_timed(places, energy, index, seed))
        if len(found) == POOL * count:
            break
    if not found:
        return Places(rows=torch.empty(0, 3, dtype=torch.int64), available=0, bad=tuple(bad))
    every = torch.cat(found).numpy()
    order = np.lexsort((every[:, 3], every[:, 4]))[:count]
    rows = torch.from_numpy(every[order, :3]).long()
    return Places(rows=rows, available=len(every), bad=tuple(bad))


def _timed(places: Tensor, energy: Tensor, index: int, seed: int) -> Tensor:
    """Return [P, 5] float64: image, top, left, time of coming, and which of its image it is."""
    key = philox.derive_key(seed, "patches")
    draws = philox.uniform(key, torch.tensor([index]), len(places))[0].double() + 2.0**-25
    time = -draws.log() / energy
    number = time.argsort(stable=True).argsort()
    image = torch.full_like(time, index)
    return torch.column_stack((image, places.double(), time, number.double()))


def cut_window(image: Tensor, top: int, left: int, side: int) -> Tensor:
    """Return the part [3, side, side] of an image; beyond its edges it is reflected."""
    down, right = (
        _reflected(np.arange(start, start + side), length)
        for start, length in zip((top, left), image.shape[1:], strict=True)
    )
    return image[:, torch.from_numpy(down)][:, :, torch.from_numpy(right)]


def _reflected(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return where places outside 0 to `length` - 1 are taken from: the edge itself comes twice."""
    turned = places % (2 * length)
    return np.where(turned < length, turned, 2 * length - 1 - turned)


def patch_source(source: Source, places: Places, *, side: int, window: int) -> Source:
    """Return the patches as images, with what is around them, each of a class of its own.

    A patch of that side is the middle of its image, which is `window` pixels wide.
    """
    margin = (window - side) // 2
    pixels = np.empty((len(places.rows), 3, window, window), dtype=np.uint8)
    for number, (index, top, left) in enumerate(places.rows.tolist()):
        image = to_tensor(source.image(index))
        pixels[number] = cut_window(image, top - margin, left - margin, window).numpy()
    images = Images(
        reader=ArrayReader(f"{source.name} patch", pixels),
        labels=torch.arange(len(places.rows)),
        side=window,
        notes=(f"{len(places.rows)} patches of {side} x {side} pixels", *source.notes),
    )
    made = Source(source.name, images, mean=source.mean, std=source.std)
    made.bad = (*source.bad, *places.bad)
    return made
