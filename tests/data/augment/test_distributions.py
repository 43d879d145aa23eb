"""Given only the specification: what is drawn, and the views, are distributed as torchvision's.

Two-sample Kolmogorov-Smirnov tests with fixed seeds; nothing here changes from run to run.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torchvision import transforms as v1
from torchvision.transforms import v2

from ssgear.config.schema import DataConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.augment.views import AugmentSpec, augment, sample
from ssgear.data.sources import open_source
from tests.data.augment.columns import Columns

SIMCLR = AugmentSpec.named("simclr")
DRAWS = 10_000
LEAST = 1e-3
"""P-value under which two samples count as different; a real difference falls far below."""


def drawn(spec: AugmentSpec, height: int = 97, width: int = 61) -> Columns:
    indices = torch.arange(DRAWS)
    sizes = {"heights": torch.full_like(indices, height), "widths": torch.full_like(indices, width)}
    return Columns(sample(spec, seed=1, epoch=0, indices=indices, view=0, **sizes).packed)


def alike(ours: torch.Tensor, theirs: NDArray[np.float64], what: str) -> None:
    assert stats.ks_2samp(ours.double().numpy(), theirs).pvalue > LEAST, what


@pytest.mark.parametrize(
    ("name", "view", "height", "width"),
    [
        ("simclr", 0, 97, 61),
        ("moco-v2", 0, 40, 300),
        ("swav-multicrop", 2, 32, 32),
    ],
)
def test_boxes(name: str, view: int, height: int, width: int) -> None:
    """At 40 x 300 the central fallback is common."""
    spec = view_set(name)[view]
    box = drawn(spec, height, width).box.double()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    scale, ratio = list(spec.crop_scale), list(spec.crop_ratio)
    theirs = np.array(
        [v1.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)], dtype=float
    )
    for column, what in enumerate(("top", "left", "height", "width")):
        alike(box[:, column], theirs[:, column], what)
    alike(box[:, 2] * box[:, 3], theirs[:, 2] * theirs[:, 3], "area")
    alike(box[:, 3] / box[:, 2], theirs[:, 3] / theirs[:, 2], "aspect")
    assert (box[:, 0] + box[:, 2] <= height).all() and (box[:, 1] + box[:, 3] <= width).all()
    assert (box >= 0).all() and (box[:, 2:] >= 1).all() and torch.equal(box, box.round())


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_jitter_factors_and_their_order(name: str) -> None:
    spec = dataclasses.replace(view_set(name)[0], jitter=1.0)
    params = drawn(spec)
    torch.manual_seed(0)
    brightness, contrast, saturation, hue = spec.strengths
    between = [(1 - most, 1 + most) for most in (brightness, contrast, saturation)]
    theirs = [v1.ColorJitter.get_params(*between, (-hue, hue)) for _ in range(DRAWS)]
    for column, what in enumerate(("brightness", "contrast", "saturation", "hue")):
        alike(params.jitter[:, column], np.array([row[1 + column] for row in theirs]), what)
    places = torch.tensor([1000, 100, 10, 1])
    orders = torch.stack([row[0] for row in theirs])
    ours, others = (
        (order * places).sum(1).unique(return_counts=True) for order in (params.order, orders)
    )
    assert torch.equal(ours[0], others[0]) and len(ours[0]) == 24
    counted = np.stack((ours[1].numpy(), others[1].numpy()))
    assert stats.chi2_contingency(counted).pvalue > LEAST


def test_blur_sigma() -> None:
    sigma = drawn(dataclasses.replace(SIMCLR, blur=1.0)).blur
    torch.manual_seed(0)
    theirs = np.array([v1.GaussianBlur.get_params(0.1, 2.0) for _ in range(DRAWS)])
    alike(sigma, theirs, "sigma")


def theirs_of(spec: AugmentSpec, size: int) -> v2.Compose:
    """The same in torchvision's own transformations, from uint8 to normalised.

    In float from the crop on: for uint8 its colour operations round down, half a step each.
    """
    kernel = 2 * spec.blur_radius(size) + 1
    mode = v2.InterpolationMode(spec.interpolation)
    jitter = v2.ColorJitter(*spec.strengths)
    blur = v2.GaussianBlur(kernel, spec.blur_sigma)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=spec.crop_scale, interpolation=mode, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(spec.flip),
            v2.RandomApply([jitter], spec.jitter),
            v2.RandomGrayscale(spec.grey),
            v2.RandomApply([blur], spec.blur),
            v2.RandomSolarize(spec.solarise_threshold, spec.solarise),
            v2.Normalize(spec.mean, spec.std),
        ]
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """A few hundred real images."""
    source = open_source(DataConfig(), "train")
    return torch.stack([source.decode(place) for place in range(0, len(source), 16)])


@pytest.mark.parametrize(
    ("name", "view", "count"),
    [
        ("simclr", 0, 800),
        ("byol", 1, 800),
        pytest.param("simclr", 0, DRAWS, marks=pytest.mark.slow),
        pytest.param("byol", 1, DRAWS, marks=pytest.mark.slow),
        pytest.param("moco-v2", 0, DRAWS, marks=pytest.mark.slow),
        pytest.param("swav-multicrop", 2, DRAWS, marks=pytest.mark.slow),
    ],
)
def test_means_and_variances_of_views(
    images: torch.Tensor, name: str, view: int, count: int
) -> None:
    spec = view_set(name)[view]
    size = spec.side(32)
    index = torch.arange(count)
    chosen = images[index % len(images)]
    ours = augment(chosen, spec, size=size, seed=4, epoch=0, indices=index, view=0)
    torch.manual_seed(4)
    transform = theirs_of(spec, size)
    theirs = torch.stack([transform(image) for image in chosen])
    for channel in range(3):
        one, other = (views[:, channel].flatten(1).double() for views in (ours, theirs))
        for what, a, b in (
            ("mean", one.mean(1), other.mean(1)),
            ("variance", one.var(1), other.var(1)),
        ):
            alike(a, b.numpy(), f"{what} of channel {channel}")
            # both rows are of one image: pairs tell more than two samples
            assert stats.ttest_rel(a, b).pvalue > LEAST, f"{what} of channel {channel}"
