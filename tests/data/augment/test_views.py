"""Views: their distribution and pixels against torchvision, and what they may not depend on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssgear.data.augment.views import AugmentSpec, augment, crop_resize, finish, sample
from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.augment import reference as augment_reference
from tests.data.augment.columns import Columns

SIMCLR = AugmentSpec.named("simclr")
EVERYTHING = dataclasses.replace(SIMCLR, solarise=0.3)
DRAWS = 6000


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth * 255).clamp(0, 255).to(torch.uint8)


def drawn(spec, count=DRAWS, height=97, width=61, **change):
    indices = torch.arange(count)
    settings = {"seed": 1, "epoch": 0, "indices": indices, "view": 0} | change
    sizes = {"heights": torch.full_like(indices, height), "widths": torch.full_like(indices, width)}
    return Columns(sample(spec, **settings, **sizes).packed)


def views_of(images, spec=EVERYTHING, **change):
    settings = {"size": 19, "seed": 5, "epoch": 2, "view": 1, "indices": torch.arange(len(images))}
    return augment(images, spec, **settings | change)


def torchvision_crop(image, params, row, spec, size):
    box = [int(side) for side in params.box[row]]
    mode = v2.InterpolationMode(spec.interpolation)
    return tv.resized_crop(image, *box, [size, size], interpolation=mode, antialias=True)


def torchvision_finish(crop, params, row, spec):
    """What follows the crop, by torchvision's functions, for one image."""
    view, size = crop.float() / 255, crop.shape[-1]
    if params.flip[row]:
        view = tv.horizontal_flip(view)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for operation in params.order[row].tolist():
        view = operations[operation](view, params.jitter[row, operation].item())
    if params.grey[row]:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if params.blur[row] > 0:
        kernel = 2 * spec.blur_radius(size) + 1
        view = tv.gaussian_blur(view, [kernel] * 2, [params.blur[row].item()] * 2)
    if params.solarise[row]:
        view = tv.solarize(view, spec.solarise_threshold)
    return tv.normalize(view, spec.mean, spec.std)


FORMS = ["reference", *(["cpp"] if native.available() else [])]


@pytest.mark.parametrize("impl", FORMS)
@pytest.mark.parametrize("size", [19, 41])
def test_finish_is_torchvisions(size, impl):
    images = pictures(48, 33, 45)
    params = drawn(EVERYTHING, 48, 33, 45)
    crops = crop_resize(images, params.box, size)
    views = finish(crops, params, EVERYTHING, impl=impl)
    theirs = torch.stack(
        [torchvision_finish(crop, params, row, EVERYTHING) for row, crop in enumerate(crops)]
    )
    torch.testing.assert_close(views, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("impl", FORMS)
def test_views_are_torchvisions(impl):
    """From the image on, a crop may differ by a step of 1/255, which later operations carry on.

    No solarisation: it would turn such a step at its threshold into a jump.
    """
    images = pictures(48, 33, 45)
    params = drawn(SIMCLR, 48, 33, 45, seed=5, epoch=2, view=1)
    views = views_of(images, SIMCLR, impl=impl)
    crops = [torchvision_crop(image, params, row, SIMCLR, 19) for row, image in enumerate(images)]
    theirs = [torchvision_finish(crop, params, row, SIMCLR) for row, crop in enumerate(crops)]
    distance = (views - torch.stack(theirs)).abs()
    assert distance.median() < 1e-5
    assert (distance > 1e-3).float().mean() < 0.05
    assert distance.max() < 0.1


@pytest.mark.parametrize(("height", "width"), [(10, 101), (101, 10), (1, 50), (1, 1), (3, 4)])
def test_the_fallback_is_torchvisions(height, width):
    """Where no try fits, the central crop of the nearest allowed shape."""
    spec = AugmentSpec(crop_scale=(1.0, 1.0))
    if height == 3:
        spec = dataclasses.replace(spec, crop_ratio=(0.5, 0.51))
    crop = v2.RandomResizedCrop(8, scale=spec.crop_scale, ratio=spec.crop_ratio)
    params = crop.make_params([torch.empty(3, height, width)])
    expected = [params[name] for name in ("top", "left", "height", "width")]
    box = drawn(spec, 50, height, width).box
    assert box.unique(dim=0).tolist() == [expected]


def test_mixed_sizes_in_one_batch():
    indices = torch.arange(200)
    heights, widths = 20 + indices, 219 - indices
    mixed = sample(SIMCLR, seed=1, epoch=0, indices=indices, view=0, heights=heights, widths=widths)
    for row in (0, 77, 199):
        alone = sample(
            SIMCLR,
            seed=1,
            epoch=0,
            indices=indices[row : row + 1],
            view=0,
            heights=heights[row : row + 1],
            widths=widths[row : row + 1],
        )
        assert torch.equal(alone.packed, mixed.packed[row : row + 1])


def test_probabilities_and_ranges():
    params = drawn(EVERYTHING)
    jittered = (params.jitter != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1)
    blurred = params.blur > 0
    for happened, p in (
        (params.flip, 0.5),
        (jittered, 0.8),
        (params.grey, 0.2),
        (blurred, 0.5),
        (params.solarise, 0.3),
    ):
        assert stats.binomtest(int(happened.sum()), DRAWS, p).pvalue > 1e-3
    assert stats.kstest(params.blur[blurred], "uniform", (0.1, 1.9)).pvalue > 1e-3
    for column, (low, width) in enumerate([(0.2, 1.6), (0.2, 1.6), (0.2, 1.6), (-0.2, 0.4)]):
        factors = params.jitter[jittered, column]
        assert stats.kstest(factors, "uniform", (low, width)).pvalue > 1e-3
    _, counts = params.order.unique(dim=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3
    together = torch.stack((params.flip, jittered, params.grey, blurred, params.solarise))
    correlation = together.double().corrcoef() - torch.eye(5)
    assert correlation.abs().max() < 4 / DRAWS**0.5


def test_strong_jitter_stays_above_zero():
    spec = AugmentSpec(jitter=1.0, brightness=1.5)
    factors = drawn(spec).jitter
    assert factors[:, 0].min() >= 0 and factors[:, 0].max() > 2.4
    assert torch.equal(factors[:, 1:], torch.tensor([1.0, 1.0, 0.0]).expand(DRAWS, 3))


def test_a_draw_keeps_its_place_between_specifications():
    ours, other = drawn(EVERYTHING, 50), drawn(AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5), 50)
    assert torch.equal(ours.box, other.box) and torch.equal(ours.flip, other.flip)


def test_seed_epoch_view_and_index_each_matter():
    images = pictures(1, 33, 45).expand(6, 3, 33, 45)
    base = views_of(images)
    assert torch.equal(base, views_of(images))
    assert len(base.flatten(1).unique(dim=0)) == 6
    for change in ({"seed": 6}, {"epoch": 3}, {"epoch": -1}, {"view": 0}):
        other = views_of(images, **change)
        assert ((base - other).abs().flatten(1).max(1).values > 0.1).all(), change


@pytest.mark.parametrize(
    ("image_type", "impl"), [("uint8", "auto"), ("uint8", "reference"), ("float", "auto")]
)
def test_a_view_does_not_depend_on_its_batch(image_type, impl):
    images = pictures(37, 33, 45)
    images = images if image_type == "uint8" else images.float() / 255
    indices = torch.arange(1000, 1037)
    batch = views_of(images, indices=indices, impl=impl)
    for rows in (torch.tensor([11]), torch.randperm(37), torch.arange(5, 9)):
        assert torch.equal(views_of(images[rows], indices=indices[rows], impl=impl), batch[rows])


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_view_does_not_depend_on_the_block_size_or_threads(monkeypatch, impl):
    images = pictures(37, 33, 45)
    batch = views_of(images, impl=impl)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(views_of(images, impl=impl), batch)
    finally:
        torch.set_num_threads(threads)
    for pixels in (1, 19 * 19 * 3, 2**30):
        monkeypatch.setattr(augment_reference, "BLOCK_PIXELS", pixels)
        assert torch.equal(views_of(images, impl=impl), batch)


def test_crops_made_one_by_one_give_the_same_views():
    """A worker process cuts the crop of one decoded file; the rest is done for the batch."""
    images = pictures(37, 33, 45)
    params = drawn(EVERYTHING, 37, 33, 45, seed=5, epoch=2, view=1)
    crops = torch.cat(
        [crop_resize(images[row : row + 1], params.box[row : row + 1], 19) for row in range(37)]
    )
    assert torch.equal(crops, crops.to(torch.uint8).float())
    assert torch.equal(finish(crops.to(torch.uint8), params, EVERYTHING), views_of(images))
    before = crops.clone()
    finish(crops, params, EVERYTHING)
    assert torch.equal(crops, before), "the caller's crops stay as they were"


def test_none_is_the_whole_image():
    images = pictures(5, 33, 45)
    spec = AugmentSpec.named("none")
    views = views_of(images, spec)
    assert torch.equal(views, views_of(images, spec, seed=99, epoch=7, view=0))
    whole = torch.tensor([[0.0, 0.0, 33.0, 45.0]]).expand(5, 4)
    expected = tv.normalize(crop_resize(images, whole, 19) / 255, spec.mean, spec.std)
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-5)


def test_types_and_shapes():
    images = pictures(3, 33, 45)
    expected = views_of(images)
    assert expected.shape == (3, 3, 19, 19) and expected.dtype == torch.float32
    half = views_of(images, dtype=torch.bfloat16)
    assert torch.equal(half, expected.to(torch.bfloat16))
    assert views_of(images[:0]).shape == (0, 3, 19, 19)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(views_of(strided), expected)
    turned = views_of(images, channels_last=True)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(turned, expected)
    exact = views_of(images.float() / 255)
    assert (exact - expected).abs().median() < 0.02, "only rounding differs"
    assert views_of(torch.rand(3, 3, 33, 45).bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views_of(images), expected)


def test_gradients_reach_float_images():
    images = (pictures(24, 17, 13).float() / 255).requires_grad_()
    views = views_of(images)
    (gradient,) = torch.autograd.grad(views.square().mean(), images)
    assert gradient.isfinite().all()
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_gradcheck():
    little = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.05}
    spec = AugmentSpec(crop_scale=(0.5, 1.0), flip=0.5, jitter=1.0, blur=1.0, **little)
    generator = torch.Generator().manual_seed(1)
    images = 0.35 + 0.3 * torch.rand(2, 3, 5, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda images: views_of(images, spec, size=3, dtype=torch.float64),
        (images.requires_grad_(),),
    )


def test_what_it_cannot_take():
    images, spec = pictures(2, 9, 9), AugmentSpec()
    for wrong, message in (
        ({"impl": "fast"}, "use one of auto, reference, cpp"),
        ({"indices": torch.arange(3)}, "one int64 for each"),
        ({"indices": torch.arange(2.0)}, "one int64 for each"),
        ({"indices": torch.arange(2).int()}, "one int64 for each"),
        ({"indices": torch.arange(4).reshape(2, 2)}, "one int64 for each"),
        ({"seed": 0.5}, "give whole numbers"),
        ({"dtype": torch.int8}, "dtype torch.int8 is not possible"),
        ({"size": 0}, "at least 1 pixel"),
        ({"size": 4.5}, "give whole pixels"),
    ):
        with pytest.raises(ArgumentError, match=message):
            views_of(images, spec, **wrong)
    with pytest.raises(ArgumentError, match=r"\[N, 3, H, W\]"):
        views_of(images[:, :1], spec)
    for wrong in (images.int(), images.long()):
        with pytest.raises(ArgumentError, match="uint8, or float"):
            views_of(wrong, spec)
    with pytest.raises(ArgumentError, match="have no pixels"):
        views_of(images[:, :, :0], spec)
    assert views_of(images.double() / 255, spec, dtype=torch.float64).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_views():
    images = pictures(37, 33, 45)
    params = drawn(EVERYTHING, 37, 33, 45)
    there = drawn(EVERYTHING, 37, 33, 45, indices=torch.arange(37).cuda()).to("cpu")
    assert torch.equal(params.packed, there.packed)
    views = views_of(images.cuda(), indices=torch.arange(37).cuda()).cpu()
    torch.testing.assert_close(views, views_of(images), rtol=0, atol=1e-4)
