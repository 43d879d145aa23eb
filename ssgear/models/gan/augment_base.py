"""The base of the critic's augmentations, and the draws that are all they take at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError, ConfigError
from ssgear.models.gan.conditions import check_choice

Draw = Callable[[str, Sequence[int]], Tensor]
"""draw(name, shape) -> uniform in [0, 1), [N, *shape]; `Batch.draw` is one."""


class CriticAugment(nn.Module):
    """Images to changed images, row by row; subclasses write `augment`."""

    known: ClassVar[tuple[str, ...]]
    """What it can do, in the order in which it does it."""

    def __init__(self, policies: Sequence[str] | None = None) -> None:
        """Keep what is to be done, None for all."""
        super().__init__()
        self.policies = self.known if policies is None else tuple(policies)
        for policy in self.policies:
            check_choice(f"policy of {type(self).__name__}", policy, self.known)
            # draws go by the policy's name: the second would repeat the first one's
            if self.policies.count(policy) > 1:
                raise ConfigError(f"policy {policy!r} of {type(self).__name__} is given twice")

    def augment(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return changed images, float32 or float64; every draw's name begins with `name`."""
        raise NotImplementedError

    def forward(self, images: Tensor, draw: Draw, *, name: str = "critic_augment") -> Tensor:
        """Return changed images of the same type; what is computed is at least float32.

        Args:
            images: Floating-point [N, 3, R, R] in [-1, 1].
            draw: Where the uniform numbers come from.
            name: What draws are for; the same name gives the same changes.

        Raises:
            ArgumentError: For images or draws of another shape.
        """
        square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
        if not images.is_floating_point() or not square:
            raise ArgumentError(
                f"images: {images.dtype} {tuple(images.shape)}, expected floating-point "
                "[N, 3, R, R]"
            )
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        # products in bfloat16 would put the places a good part of a pixel off
        with torch.autocast(images.device.type, enabled=False):
            return self.augment(wide, draw, name).to(images.dtype)

    def pair(
        self,
        real: Tensor,
        fake: Tensor,
        draw: Draw,
        *,
        same: bool = False,
        name: str = "critic_augment",
    ) -> tuple[Tensor, Tensor]:
        """Return both changed; with `same`, row i of each by the same draws.

        Losses over pairs (rpgan) compare like with like that way.
        """
        names = (name, name) if same else (f"{name}.real", f"{name}.fake")
        return self(real, draw, name=names[0]), self(fake, draw, name=names[1])


def draw_uniform(draw: Draw, name: str, shape: Sequence[int], images: Tensor) -> Tensor:
    """Return draws [N, *shape] beside the images, after a look at their shape."""
    draws = draw(name, shape)
    if draws.shape != (len(images), *shape):
        raise ArgumentError(
            f"draw({name!r}, {tuple(shape)}): {tuple(draws.shape)}, expected "
            f"{(len(images), *shape)} for {len(images)} images"
        )
    return draws.to(images.device)
