"""What generators have in common that describe an image before they draw from it.

The last stage draws; those before it find what all views of an image share (views/jobs/sharing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssgear.views.base import Generator, Shared, Study, Views
from ssgear.views.diffusion.rows import Row, known, studied, views_of
from ssgear.views.diffusion.stages import Stage, Told, run

if TYPE_CHECKING:
    from torch import Tensor


class Described(Generator):
    """Stages, of which the last one draws a view of `size` pixels."""

    stages: Sequence[Stage[Row]]
    size: int

    def study(self, images: Tensor) -> Study:
        """Go through all stages but the last."""
        rows = [Row(image=image, seed=0) for image in images]
        return studied(rows, run(self.stages[:-1], rows))

    def more(
        self, images: Tensor, shared: Sequence[Shared], ids: Sequence[str], seeds: Sequence[int]
    ) -> Views:
        """Go through the last stage; enlarged originals are kept with first views already."""
        rows = known(images, shared, seeds)
        return self.views(rows, run(self.stages[-1:], rows))

    def views(self, rows: Sequence[Row], told: Told) -> Views:
        """Return what stages made of rows, under the model's name and parameters."""
        common = {"model": self.settings["model"], "parameters": self.settings["parameters"]}
        return views_of(rows, self.size, told, common)
