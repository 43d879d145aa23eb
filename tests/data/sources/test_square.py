"""The centre square: torchvision's, and the same from every engine and every reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from ssgear.config.schema import DataConfig
from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import build_loader
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources.decode import to_tensor
from ssgear.data.sources.loading import load_images
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import Source
from ssgear.data.sources.square import centre_boxes, centre_squares
from tests.data.pictures import noise, smooth, write

SIZE = 20
SHAPES = [(33, 60), (60, 33), (41, 41), (20, 29), (20, 20), (7, 90), (64, 21), (50, 51)]


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64), (32, 48), (16, 24)])
def test_it_is_torchvisions_centre_crop_and_resize(height: int, width: int) -> None:
    # smooth, so that the order of the two passes moves no value by more than their rounding
    image = Image.fromarray(noise(9, 9)).resize((width, height), Image.Resampling.BILINEAR)
    expected = F.resize(
        F.center_crop(image, [min(height, width)] * 2), 32, InterpolationMode.BICUBIC
    )
    made = centre_squares(to_tensor(image)[None], 32)[0].permute(1, 2, 0).numpy().astype(int)
    assert made.shape == (32, 32, 3)
    assert np.abs(made - np.asarray(expected)).max() <= 1


def test_the_right_size_stays_and_strips_and_single_pixels_work() -> None:
    image = torch.from_numpy(noise(32, 32)).permute(2, 0, 1)[None]
    assert torch.equal(centre_squares(image, 32), image)
    strip = torch.zeros(1, 3, 1, 20_000, dtype=torch.uint8)
    strip[..., 9_999] = 200
    assert (centre_squares(strip, 64) == 200).all(), "the pixel left of the middle"
    assert centre_squares(strip[..., :1], 7).shape == (1, 3, 7, 7)


def test_boxes_are_those_of_the_squares() -> None:
    boxes = centre_boxes(torch.tensor([[5, 9], [9, 4], [6, 6]]))
    assert boxes.tolist() == [[0, 2, 5, 5], [2, 0, 4, 4], [0, 0, 6, 6]]
    assert boxes.dtype == torch.float32


def batches(source: Source, engine: str) -> list[Batch]:
    plan = ViewPlan(
        specs=(AugmentSpec.named("crop-only"),),
        size=SIZE,
        seed=3,
        device=torch.device("cpu"),
        needs_images=True,
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=4, seed=3)

    config = dataclasses.replace(DataConfig(), loader=engine, workers=0)  # type: ignore[arg-type]
    loader = build_loader(config, source, sampler_for, plan).loader
    return list(loader.epoch(0, 0, lambda _: [""]))


def centred(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def check(source: Source, engine: str, tolerance: float) -> None:
    """The batches' images, what they fetch and what evaluation reads are one."""
    seen = 0
    for batch in batches(source, engine):
        right = centred(load_images(source, batch.index, SIZE))
        assert batch.images is not None and batch.fetch is not None
        off = (batch.images - right).abs().max() * 127.5
        assert off <= tolerance, f"{engine}: off by {off} of 255"
        assert torch.equal(batch.fetch(batch.index.flip(0)), right.flip(0))
        seen += len(batch)
    assert seen == len(source) // 4 * 4


@pytest.mark.parametrize(("engine", "tolerance"), [("torch", 0), ("dali", 2.01)])
def test_images_that_are_no_squares(engine: str, tolerance: float, tmp_path: Path) -> None:
    for number, shape in enumerate(SHAPES):
        smooth(*shape, number).save(tmp_path / f"{number}.png")
    check(open_source(DataConfig(path=tmp_path, test_share=0), "train"), engine, tolerance)


@pytest.mark.parametrize(("engine", "tolerance"), [("resident", 0), ("torch", 0), ("dali", 2.01)])
def test_squares_of_another_size_than_the_views(
    engine: str, tolerance: float, tmp_path: Path
) -> None:
    write(tmp_path, [f"{number}.png" for number in range(8)], side=31)
    check(open_source(DataConfig(path=tmp_path, test_share=0), "train"), engine, tolerance)
