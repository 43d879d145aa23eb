"""How others make two views from image files: torchvision's DataLoader, DALI by itself.

Each is written as its documentation shows, for the same specification as ours (`AugmentSpec`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.augment import torchvision_transform
from ssgear.data.augment import AugmentSpec


@dataclass(frozen=True)
class TwoViews:
    """Two views of a picture."""

    transform: v2.Transform
    """Makes one."""

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        """Return both."""
        return self.transform(picture), self.transform(picture)


def torchvision_files(
    folder: Path, spec: AugmentSpec, size: int, batch_size: int, workers: int
) -> Callable[[], Iterable[Any]]:
    """Return what walks through an epoch of two views, by ImageFolder and DataLoader."""
    both = TwoViews(torchvision_transform(spec, size))
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
