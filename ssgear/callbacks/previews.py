"""Views of a run for people and readings: made as in training, and turned back into pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.data.augment import augment
from ssgear.engine.run import Run


def make_views(run: Run, images: Tensor, count: int, *, first: int = 0) -> list[Tensor]:
    """Return augmented views `first`, `first` + 1, ... of images, by the run's own specification.

    `count` of them [N, 3, s, s], each of its own side as in training, normalised, on the run's
    device. Epoch -1 is nobody's in training.

    Args:
        run: The run.
        images: Uint8 [N, 3, H, W].
        count: How many views of each.
        first: Number of the first; another number is another draw.
    """
    specs, sides = run.plan.specs, run.plan.sides
    images = images.to(run.device)
    return [
        augment(
            images,
            specs[view % len(specs)],
            size=sides[view % len(sides)],
            seed=run.config.seed,
            epoch=-1,
            indices=torch.arange(len(images), device=run.device),
            view=view,
        )
        for view in range(first, first + count)
    ]


def as_pixels(run: Run, view: Tensor) -> Tensor:
    """Return a normalised view [N, 3, S, S] as uint8 pixels on the CPU."""
    spec = run.plan.specs[0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    return ((view.float().cpu() * std + mean) * 255).round().clamp(0, 255).byte()
