"""Crop and resize against torchvision, at odd sizes, shrinking and growing."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssgear.errors import ArgumentError, SsgearError
from ssgear.kernels import native
from ssgear.kernels.augment.views import crop_resize

MODES = ["bilinear", "bicubic"]
FORMS = ["reference", *(["cpp"] if native.available() else [])]
SIZES = [  # H, W, size
    (33, 47, 17),
    (21, 19, 45),
    (32, 32, 32),
    (130, 61, 24),
    (97, 301, 9),
    (5, 7, 13),
]


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with hard edges and some noise: what photographs have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    edges = (smooth > 0.6).float() * 0.3 + smooth * 0.7
    noise = 0.05 * torch.randn(count, 3, height, width, generator=generator)
    return ((edges + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def some_boxes(count: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, 4, generator=generator)
    tall, wide = (draws[:, 0] * height).ceil(), (draws[:, 1] * width).ceil()
    tall[0], wide[0] = height, width
    tall[1], wide[1] = 1, 1
    top = (draws[:, 2] * (height - tall + 1)).floor()
    left = (draws[:, 3] * (width - wide + 1)).floor()
    return torch.stack((top, left, tall, wide), dim=1)


def torchvision_crops(images, boxes, size, mode, antialias=True):
    return torch.stack(
        [
            tv.resized_crop(
                image,
                *(int(side) for side in box),
                [size, size],
                interpolation=v2.InterpolationMode(mode),
                antialias=antialias,
            )
            for image, box in zip(images, boxes, strict=True)
        ]
    )


@pytest.mark.parametrize("impl", FORMS)
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_uint8_is_torchvisions(height, width, size, mode, noisy, impl):
    """Both round after each pass, with weights in fixed point of different precision.

    White noise overshoots most: there it shows whether the first pass is cut to [0, 255].
    """
    images, boxes = pictures(9, height, width), some_boxes(9, height, width)
    if noisy:
        generator = torch.Generator().manual_seed(2)
        images = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
    ours = crop_resize(images, boxes, size, interpolation=mode, impl=impl)
    assert ours.dtype == torch.float32 and ours.shape == (9, 3, size, size)
    assert torch.equal(ours, ours.round()) and ours.min() >= 0 and ours.max() <= 255
    distance = (ours - torchvision_crops(images, boxes, size, mode).float()).abs()
    assert (distance > 0).float().mean() < 0.04  # exact halves fall either way
    if mode == "bilinear":
        assert distance.max() <= 1
    else:  # negative weights can carry a step of 1 of the first pass over a second rounding
        assert distance.max() <= 2
        assert (distance > 1).float().mean() < 2e-3


@pytest.mark.skipif(not native.available(), reason=native.reason())
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_cpp_has_the_bits_of_the_reference(mode, antialias):
    """At more sizes than torchvision is asked for: a weight that rounds otherwise would show."""
    generator = torch.Generator().manual_seed(3)
    for height, width, size in (*SIZES, (64, 64, 51), (257, 130, 224), (600, 40, 7), (3, 1, 30)):
        shape = (24, 3, height, width)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        boxes = some_boxes(24, height, width, seed=size)
        settings = {"interpolation": mode, "antialias": antialias}
        right = crop_resize(images, boxes, size, impl="reference", **settings)
        found = crop_resize(images, boxes, size, impl="cpp", **settings)
        assert torch.equal(found, right), (height, width, size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_float_is_torchvisions(height, width, size, mode):
    images = pictures(9, height, width).double()
    boxes = some_boxes(9, height, width)
    ours = crop_resize(images, boxes, size, interpolation=mode)
    theirs = torchvision_crops(images, boxes, size, mode).clamp(0, 255)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_without_antialias_bilinear_is_torchvisions(height, width, size):
    images = pictures(9, height, width).double()
    boxes = some_boxes(9, height, width)
    ours = crop_resize(images, boxes, size, interpolation="bilinear", antialias=False)
    theirs = torchvision_crops(images, boxes, size, "bilinear", antialias=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_the_whole_image_at_its_own_size_is_itself(mode):
    images = pictures(3, 31, 31)
    boxes = torch.tensor([[0.0, 0.0, 31.0, 31.0]]).expand(3, 4)
    assert torch.equal(crop_resize(images, boxes, 31, interpolation=mode), images.float())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("exact", "impl"), [(False, "auto"), *((True, form) for form in FORMS)])
def test_one_image_gives_what_a_batch_gives(mode, exact, impl):
    for height, width, size in SIZES:
        images, boxes = pictures(37, height, width), some_boxes(37, height, width)
        images = images if exact else images.float()
        batch = crop_resize(images, boxes, size, interpolation=mode, impl=impl)
        for row in range(0, 37, 6):
            part = slice(row, row + 1)
            alone = crop_resize(images[part], boxes[part], size, interpolation=mode, impl=impl)
            apart = (alone - batch[part]).abs().max()
            # of floats partial sums are rounded, and some CPUs' products sum by the batch's size
            assert apart <= (0 if exact else 1e-4), (row, apart)


@pytest.mark.parametrize("mode", MODES)
def test_gradient(mode):
    images = torch.rand(2, 3, 6, 5, dtype=torch.float64) * 100 + 60  # no value is cut
    images.requires_grad_()
    boxes = torch.tensor([[0.0, 0.0, 6.0, 5.0], [1.0, 2.0, 3.0, 2.0]])
    assert torch.autograd.gradcheck(
        lambda images: crop_resize(images, boxes, 4, interpolation=mode), (images,)
    )


def test_what_it_cannot_take():
    images, boxes = pictures(2, 8, 8), some_boxes(2, 8, 8)
    with pytest.raises(ArgumentError, match="bilinear or bicubic"):
        crop_resize(images, boxes, 4, interpolation="nearest")  # type: ignore[arg-type]
    with pytest.raises(SsgearError, match=r"boxes \[N, 4\]"):
        crop_resize(images, boxes[:1], 4)


WHOLE = [0.0, 0.0, 9.0, 8.0]


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "box",
    [
        [0.0, 0.0, 0.0, 8.0],
        [3.0, 3.0, 2.0, 0.0],
        [0.0, 0.0, -1.0, 4.0],
        [-1.0, 0.0, 4.0, 4.0],
        [0.0, 1.0, 9.0, 8.0],
        [float("nan"), 0.0, 4.0, 4.0],
        [0.0, 0.0, float("inf"), 4.0],
    ],
)
def test_boxes_without_an_area_or_outside(impl, dtype, box):
    images = pictures(3, 9, 8).to(dtype)
    with pytest.raises(
        ArgumentError, match=r"(box 2 is|view 2 has the box) \[.* of 9 x 8"
    ) as caught:
        crop_resize(images, torch.tensor([WHOLE, WHOLE, box]), 4, impl=impl)
    assert "\n" not in str(caught.value)


def test_boxes_between_pixels_are_for_floats():
    images, boxes = pictures(1, 9, 8), torch.tensor([[0.5, 0.25, 7.5, 7.5]])
    assert crop_resize(images.float(), boxes, 4).shape == (1, 3, 4, 4)
    for impl in ("auto", "reference"):
        with pytest.raises(ArgumentError, match="whole pixels"):
            crop_resize(images, boxes, 4, impl=impl)


def test_arguments_of_other_types():
    images, boxes = pictures(3, 9, 8), torch.tensor([WHOLE] * 3)
    right = crop_resize(images, boxes, 4)
    for other in (boxes.long(), boxes.int(), boxes.double(), boxes[:1].expand(3, 4)):
        assert torch.equal(crop_resize(images, other, 4), right)
        assert torch.equal(crop_resize(images, other, 4, impl="reference"), right)
    assert crop_resize(images[:, :1], boxes, 4).shape == (3, 1, 4, 4)
    for wrong, message in (
        ({"images": images.int()}, "crop_resize: images are torch.int32"),
        ({"images": images.bool()}, "crop_resize: images are torch.bool"),
        ({"images": images[0]}, r"crop_resize: images \(3, 9, 8\); give \[N, C, H, W\]"),
        ({"images": images[:, :, :0]}, "have no pixels"),
        ({"boxes": boxes.bool()}, "torch.bool; give images .* boxes .* of numbers"),
        ({"size": 0}, "crop_resize: size 0 is not possible"),
        ({"size": 4.0}, "crop_resize: size 4.0 is not possible; give whole pixels"),
    ):
        with pytest.raises(ArgumentError, match=message):
            crop_resize(**{"images": images, "boxes": boxes, "size": 4} | wrong)
