"""Invariance of encoders whose invariances are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.data.augment import AugmentSpec, augment
from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.similarity.invariance import KINDS, invariance


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth pictures of different colors."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(43, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, size=(24, 24), mode="bicubic").clamp(0, 1)
    return (255 * smooth).round().byte()


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float()


def test_pixels_move_more_the_stronger_an_augmentation_is(images: Tensor) -> None:
    curves = invariance(pixels, images, size=24)
    assert tuple(curves) == KINDS
    for kind in ("crop", "brightness", "contrast", "saturation", "hue", "blur"):
        strengths, values = zip(*curves[kind], strict=True)
        assert strengths == (0.25, 0.5, 0.75, 1.0)
        assert list(values) == sorted(values, reverse=True), (kind, values)
        assert -0.2 < values[-1] < values[0] < 1, (kind, values)
    assert [strength for strength, _ in curves["flip"]] == [1.0]
    assert curves["flip"][0][1] < 0.3  # a mirror image is another image to pixels


def test_it_is_the_definition(images: Tensor) -> None:
    curves = invariance(pixels, images, size=19, seed=3, strengths=(0.5,), batch_size=8)

    def unit(spec: AugmentSpec) -> Tensor:
        views = augment(
            images, spec, size=19, seed=3, epoch=0, indices=torch.arange(43), view=0,
            dtype=torch.uint8,
        )  # fmt: skip
        return F.normalize(pixels(views).double(), dim=1)

    plain = unit(AugmentSpec())
    other = (plain[:, None] - plain[None]).square().sum(2).sum() / (43 * 42)
    specs = {
        "crop": AugmentSpec(crop_scale=(0.54, 1.0), crop_ratio=(0.75**0.5, (4 / 3) ** 0.5)),
        "flip": AugmentSpec(flip=1.0),
        "brightness": AugmentSpec(jitter=1.0, brightness=0.4),
        "hue": AugmentSpec(jitter=1.0, hue=0.1),
        "grey": AugmentSpec(grey=1.0),
        "blur": AugmentSpec(blur=1.0, blur_sigma=(0.1, 1.05)),
    }
    for kind, spec in specs.items():
        moved = (plain - unit(spec)).square().sum(1).mean()
        assert curves[kind][0][1] == pytest.approx(float(1 - moved / other), abs=1e-9), kind


def test_what_an_encoder_ignores_does_not_move_it(images: Tensor) -> None:
    def symmetric(images: Tensor) -> Tensor:
        return pixels(images) + pixels(images.flip(3))

    def means(images: Tensor) -> Tensor:
        # of each color, with a large common offset that makes every cosine high
        return images.float().mean((2, 3)) + 5000

    assert invariance(symmetric, images, size=24)["flip"] == [(1.0, pytest.approx(1))]
    curves = invariance(means, images, size=24)
    assert curves["flip"] == [(1.0, pytest.approx(1))]
    assert curves["blur"][-1][1] > 0.98 > 0.7 > curves["grey"][0][1]


def test_images_are_spread_evenly_and_read_in_batches(images: Tensor) -> None:
    class Reader:
        shape = (43, 3, 24, 24)

        def __init__(self) -> None:
            self.rows: list[int] = []

        def __len__(self) -> int:
            return 43

        def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
            assert isinstance(rows, Tensor) and len(rows) <= 4
            self.rows += rows.tolist()
            return images[rows]

    reader = Reader()
    curves = invariance(pixels, reader, size=24, max_images=7, batch_size=4)
    assert reader.rows == [0, 7, 14, 21, 28, 35, 42]
    assert curves == invariance(pixels, images, size=24, max_images=7, batch_size=4)
    assert curves != invariance(pixels, images, size=24, max_images=7, batch_size=4, seed=1)


def test_bad_input_is_refused(images: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"needs at least 2 images \(got 1\)"):
        invariance(pixels, images[:1], size=24)
    with pytest.raises(ArgumentError, match=r"strengths must be in \(0, 1\] \(got \(0.5, 2\)\)"):
        invariance(pixels, images, size=24, strengths=(0.5, 2))
    with pytest.raises(ArgumentError, match="all images have the same features"):
        invariance(lambda x: torch.ones(len(x), 4), images, size=24)
    with pytest.raises(DataError, match="the features of image 0 are not finite"):
        invariance(lambda x: pixels(x) / 0, images, size=24)
