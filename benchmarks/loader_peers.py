"""How others make SimCLR's views: torchvision v2, kornia, lightly, DALI by itself.

Each is written as its documentation shows, for the same specification as ours (`AugmentSpec`). A
peer that this machine does not have is left out and named.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.peers import say
from ssgear.data.augment import AugmentSpec

Maker = Callable[[], object]
"""Makes one view of every image of a workload."""


def torchvision_views(spec: AugmentSpec, size: int, first: list[Any]) -> v2.Compose:
    """Return torchvision's pipeline; `first` comes before the last conversion to float."""
    cubic = v2.InterpolationMode(spec.interpolation)
    crop = v2.RandomResizedCrop(size, spec.crop_scale, spec.crop_ratio, cubic, antialias=True)
    jitter = v2.ColorJitter(*spec.strengths)
    steps = [crop, v2.RandomHorizontalFlip(spec.flip), v2.RandomApply([jitter], spec.jitter)]
    steps += [v2.RandomGrayscale(spec.grey)]
    if spec.blur:
        kernel = 2 * spec.blur_radius(size) + 1
        steps += [v2.RandomApply([v2.GaussianBlur(kernel, spec.blur_sigma)], spec.blur)]
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)]
    return v2.Compose([*steps, *first, *last])


def peers(images: Tensor, spec: AugmentSpec, size: int) -> dict[str, Maker]:
    """Return the others by name; each makes one view of all `images` [N, 3, H, W] uint8."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    of_pictures = torchvision_views(spec, size, [v2.ToImage()])
    of_tensors = torchvision_views(spec, size, [])
    found: dict[str, Maker] = {
        "torchvision v2, PIL": lambda: torch.stack([of_pictures(each) for each in pictures]),
        "torchvision v2, tensors": lambda: torch.stack([of_tensors(each) for each in images]),
    }
    for name, make in (("kornia", kornia_views), ("lightly", lightly_views)):
        if importlib.util.find_spec(name) is None:
            say(f"{name} is not installed and not compared; make bench installs it")
        else:
            found[name] = make(images, pictures, spec, size)
    return found


def kornia_views(images: Tensor, _: list[Image.Image], spec: AugmentSpec, size: int) -> Maker:
    """Return kornia's pipeline over the whole batch."""
    from kornia import augmentation as K

    kernel = 2 * spec.blur_radius(size) + 1
    steps: list[Any] = [
        K.RandomResizedCrop((size, size), spec.crop_scale, spec.crop_ratio, spec.interpolation),
        K.RandomHorizontalFlip(p=spec.flip),
        K.ColorJitter(*spec.strengths, p=spec.jitter),
        K.RandomGrayscale(p=spec.grey),
    ]
    if spec.blur:
        steps.append(K.RandomGaussianBlur((kernel, kernel), spec.blur_sigma, p=spec.blur))
    steps.append(K.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std)))
    pipeline = K.AugmentationSequential(*steps, data_keys=["input"])
    return lambda: pipeline(images.float() / 255)


def lightly_views(
    images: Tensor, pictures: list[Image.Image], spec: AugmentSpec, size: int
) -> Maker:
    """Return lightly's SimCLR transform, of whose two views the first is made."""
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    brightness, contrast, saturation, hue = spec.strengths
    view = SimCLRViewTransform(
        input_size=size,
        cj_prob=spec.jitter,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=(spec.crop_scale or (1.0, 1.0))[0],
        random_gray_scale=spec.grey,
        gaussian_blur=spec.blur,
        sigmas=spec.blur_sigma,
        normalize={"mean": list(spec.mean), "std": list(spec.std)},
    )
    return lambda: torch.stack([view(each) for each in pictures])


class TwoViews:
    """Two views of a picture."""

    def __init__(self, transform: v2.Compose) -> None:
        """Keep what makes one."""
        self.transform = transform

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        """Return both."""
        return self.transform(picture), self.transform(picture)


def torchvision_files(
    folder: Path, spec: AugmentSpec, size: int, batch_size: int, workers: int
) -> Callable[[], Iterable[Any]]:
    """Return what walks through an epoch of two views, by ImageFolder and DataLoader."""
    both = TwoViews(torchvision_views(spec, size, [v2.ToImage()]))
    data = ImageFolder(str(folder), both)
    return lambda: DataLoader(data, batch_size, shuffle=True, num_workers=workers)


def dali_files(
    folder: Path, spec: AugmentSpec, size: int, batch_size: int, workers: int
) -> Callable[[], Iterable[Any]]:
    """Return what walks through an epoch of two views, by a pipeline of DALI's own operators.

    Its jitter has a fixed order, as DALI's documentation shows it.
    """
    from nvidia.dali import fn, pipeline_def, types

    mean, std = ([255 * value for value in row] for row in (spec.mean, spec.std))
    brightness, contrast, saturation, hue = spec.strengths

    def view(decoded: Any) -> Any:
        area = tuple(spec.crop_scale or (1.0, 1.0))
        image = fn.random_resized_crop(
            decoded,
            size=size,
            random_area=area,
            random_aspect_ratio=spec.crop_ratio,
            interp_type=types.INTERP_CUBIC,
        )
        chosen = fn.random.coin_flip(probability=spec.jitter)
        image = fn.color_twist(
            image,
            brightness=_or_one(fn, chosen, 1 - brightness, 1 + brightness),
            contrast=_or_one(fn, chosen, 1 - contrast, 1 + contrast),
            saturation=_or_one(fn, chosen, 1 - saturation, 1 + saturation)
            * (1 - fn.random.coin_flip(probability=spec.grey)),
            hue=chosen * fn.random.uniform(range=[-360 * hue, 360 * hue]),
        )
        if spec.blur:
            sigma = fn.random.uniform(range=list(spec.blur_sigma))
            window = 2 * spec.blur_radius(size) + 1
            blurred = fn.gaussian_blur(image, sigma=sigma, window_size=window)
            there = fn.random.coin_flip(probability=spec.blur, dtype=types.UINT8)
            image = blurred * there + image * (1 - there)
        mirror = fn.random.coin_flip(probability=spec.flip)
        return fn.crop_mirror_normalize(image, mirror=mirror, mean=mean, std=std)

    @pipeline_def(batch_size=batch_size, num_threads=max(workers, 1), device_id=None)
    def pipeline() -> Any:
        encoded, label = fn.readers.file(file_root=str(folder), random_shuffle=True, name="images")
        decoded = fn.decoders.image(encoded, device="cpu")
        return view(decoded), view(decoded), label

    built = pipeline()
    built.build()
    steps = built.epoch_size()["images"] // batch_size
    return lambda: (built.run() for _ in range(steps))


def _or_one(fn: Any, chosen: Any, low: float, high: float) -> Any:
    """Return a random factor where the coin says so, else 1."""
    return 1 + chosen * (fn.random.uniform(range=[max(low, 0.0), high]) - 1)
