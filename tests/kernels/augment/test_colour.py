"""Each colour operation against torchvision's on float images, given the same factors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from ssgear.kernels.augment import colour

THEIRS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
FACTORS = {
    colour.BRIGHTNESS: [0.0, 0.2, 0.9, 1.0, 1.3, 1.8],
    colour.CONTRAST: [0.0, 0.2, 0.9, 1.0, 1.3, 1.8],
    colour.SATURATION: [0.0, 0.2, 0.9, 1.0, 1.3, 1.8],
    colour.HUE: [-0.5, -0.21, -0.01, 0.0, 0.1, 0.5],
}


def pictures(count: int = 6, height: int = 13, width: int = 11) -> torch.Tensor:
    """Images in [0, 1] with grey, black, white, primary and quantised pixels among random ones."""
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3))
    images[:, :, 0] = images[:, :1, 0]
    images[:, :, 1] = 0
    images[:, :, 2] = 1
    images[:, 1:, 3] = 0
    images[:, :2, 4] = 1
    images[:, :2, 5] = images[:, 2:, 5]
    images[:, 1:, 6] = images[:, :1, 6]
    images[:, :, 7] = (images[:, :, 7] * 2).round() / 2
    return images


@pytest.mark.parametrize("operation", FACTORS)
def test_operations_are_torchvisions(operation):
    images, factors = pictures(), torch.tensor(FACTORS[operation])
    order = torch.tensor([operation, *({*range(4)} - {operation})]).expand(6, 4)
    every = torch.tensor(colour.IDENTITY).repeat(6, 1)
    every[:, operation] = factors
    ours = colour.jitter(images * 255, every, order) / 255
    for image, factor, row in zip(images, factors.tolist(), ours, strict=True):
        torch.testing.assert_close(row, THEIRS[operation](image, factor), rtol=0, atol=1e-5)


@pytest.mark.parametrize("hue_step", range(4))
def test_rows_have_their_own_order(hue_step):
    rest = list(itertools.permutations((colour.BRIGHTNESS, colour.CONTRAST, colour.SATURATION)))
    order = torch.tensor([[*row[:hue_step], colour.HUE, *row[hue_step:]] for row in rest])
    images = pictures()
    spread = torch.rand(6, 4, generator=torch.Generator().manual_seed(4))
    factors = torch.cat((0.4 + 1.2 * spread[:, :3], 0.6 * spread[:, 3:] - 0.3), dim=1)
    ours = colour.jitter(images * 255, factors, order) / 255
    for row in range(6):
        image = images[row]
        for operation in order[row].tolist():
            image = THEIRS[operation](image, factors[row, operation].item())
        torch.testing.assert_close(ours[row], image, rtol=0, atol=2e-5)


def test_grey_is_torchvisions():
    images = pictures()
    theirs = tv.rgb_to_grayscale(images, num_output_channels=3)
    torch.testing.assert_close(colour.grey(images * 255) / 255, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "radius"), [(13, 11, 1), (9, 23, 4), (33, 33, 11)])
def test_blur_is_torchvisions(height, width, radius):
    images, sigma = pictures(6, height, width), torch.tensor([0.1, 0.3, 0.7, 1.0, 1.6, 2.0])
    ours = colour.gaussian_blur(images * 255, sigma, radius) / 255
    kernel = [2 * radius + 1] * 2
    for row in range(6):
        theirs = tv.gaussian_blur(images[row], kernel, [sigma[row].item()] * 2)
        torch.testing.assert_close(ours[row], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.5, 1.0])
def test_solarise_is_torchvisions(threshold):
    images = pictures()
    ours = colour.solarise(images * 255, threshold) / 255
    torch.testing.assert_close(ours, tv.solarize(images, threshold), rtol=0, atol=1e-6)


def test_gradients_are_finite_where_colours_are_flat():
    images = (pictures() * 255).requires_grad_()
    factors = torch.tensor([[1.1, 0.9, 1.2, 0.1]]).repeat(6, 1)
    order = torch.tensor([[0, 3, 2, 1]]).repeat(6, 1)
    changed = colour.gaussian_blur(colour.jitter(images, factors, order), torch.ones(6), 1)
    (gradient,) = torch.autograd.grad(changed.square().mean(), images)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("operation", FACTORS)
def test_gradcheck(operation):
    images = torch.rand(2, 3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    images = (40 + 100 * images).requires_grad_()  # nothing is cut at 0 or 255
    factors = torch.tensor(colour.IDENTITY, dtype=torch.float64).repeat(2, 1)
    factors[:, operation] += torch.tensor([0.13, -0.17])
    order = torch.arange(4).expand(2, 4)
    assert torch.autograd.gradcheck(lambda rows: colour.jitter(rows, factors, order), (images,))
