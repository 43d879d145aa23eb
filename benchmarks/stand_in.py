"""A view generator that takes a known time for an image and needs no model.

    python -m ssgear.generate --generator benchmarks.stand_in:StandIn --data.path DIR --output STORE

Its images are smooth, as photographs are for an encoder, and depend on the seed, and on the mean of
the source where there is one, alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssgear.views.base import Generator, Views

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_COARSE = 8
"""Side of the noise that is enlarged."""


class StandIn(Generator):
    """Seeded pixels, after a while."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Generator.Config):
        """How large and how slow."""

        side: int = 512
        """Side of a view in pixels."""
        source_side: int | None = 64
        """Side of the images that it makes views of; None: it makes none and draws from noise."""
        seconds: float = 0.2
        """Time of an image."""

    def __init__(self, config: Any, device: torch.device) -> None:
        """Keep the settings; there is no model."""
        self.size, self.image_size, self.seconds = config.side, config.source_side, config.seconds
        self.batch_size = 16
        self.settings = {"model": {"name": "stand-in", "side": config.side}}

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Return smooth noise."""
        began = time.monotonic()
        views = self.draw(images, seeds)
        time.sleep(max(0.0, self.seconds * len(ids) - (time.monotonic() - began)))
        spent = {"stand-in": time.monotonic() - began}
        return Views(images=views, metadata=[{"model": "stand-in"}] * len(ids), seconds=spent)

    def draw(self, images: Tensor | None, seeds: Sequence[int]) -> Tensor:
        """Return the pixels of each row."""
        import torch
        from torch.nn.functional import interpolate

        from ssgear.kernels import philox

        key = philox.derive_key("stand-in")
        noise = philox.normal(key, torch.tensor(seeds), 3 * _COARSE**2)
        coarse = noise.view(-1, 3, _COARSE, _COARSE)
        if images is not None:
            coarse = coarse + images.float().mean(dim=(1, 2, 3)).view(-1, 1, 1, 1) / 128 - 1
        fine = torch.cat([interpolate(row[None], self.size, mode="bicubic") for row in coarse])
        return (fine * 64 + 128).round().clamp(0, 255).to(torch.uint8)
