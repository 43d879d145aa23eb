"""Images on their way through the stages of a generator, and what becomes of them in the end.

`Drawing` is a generator of such stages; `Described` one whose last stage draws, while those before
it find what all views of an image share (views/jobs/sharing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssgear.views.base import Generator, Json, Shared, Study, Views
from ssgear.views.diffusion.stages import WHOLE, Stage, run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CAPTION = ("prompt", "caption_refused")
"""What a `Captioner` says of an image: the same for all its views."""


@dataclass(kw_only=True, eq=False)
class Row:
    """One image on its way through the stages."""

    image: Tensor
    """uint8 [3, h, w], the original."""
    seed: int
    """Decides its noise."""
    upscaled: Tensor | None = None
    """uint8 [3, H, W], where there is a stage for it."""
    prompt: str = ""
    """What the model is told to draw."""
    metadata: dict[str, Json] = field(default_factory=dict)
    """What is known of the view."""
    pixels: Tensor | None = None
    """uint8 [3, S, S], the view."""
    failed: str | None = None
    """Why there is none."""


def one_stage(name: str, work: Callable[[Sequence[Row]], None], device: torch.device) -> Stage[Row]:
    """Return the stage of a generator that draws all rows of a block at once."""
    return Stage(
        name=name,
        batch_size=WHOLE,
        work=work,
        option="--batch-size",
        advice="use a GPU with more",
        device=device,
    )


def images_of(rows: Sequence[Row]) -> Tensor:
    """Return the originals of rows, uint8 [n, 3, h, w]."""
    import torch

    return torch.stack([row.image for row in rows])


def generators(rows: Sequence[Row]) -> list[torch.Generator]:
    """Return the source of noise of each row."""
    import torch

    return [torch.Generator("cpu").manual_seed(row.seed) for row in rows]


def checked(made: Tensor) -> tuple[Tensor, str | None]:
    """Return an image [3, H, W] in [0, 1] as uint8, and what is wrong with it."""
    import torch

    finite = bool(torch.isfinite(made).all())
    pixels = (made.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    low, high = int(pixels.min()), int(pixels.max())
    if not finite:
        return pixels, "not finite"
    if low == high:
        return pixels, "black" if high == 0 else "of one colour"
    return pixels, None


def keep(rows: Sequence[Row], drawn: Tensor) -> None:
    """Make what a GAN drew in float32, in [-1, 1], the pixels of rows; what is no image failed."""
    for row, made in zip(rows, (drawn.cpu() + 1) / 2, strict=True):
        row.pixels, row.failed = checked(made)


class Drawing(Generator):
    """A generator of stages, of which the last one draws a view of `size` pixels."""

    stages: Sequence[Stage[Row]]
    size: int

    def drawn(self, rows: Sequence[Row], stages: Sequence[Stage[Row]]) -> Views:
        """Send all rows of a block through stages; return the views, with model and parameters."""
        import torch

        work = run(stages, rows)
        common = {name: self.settings[name] for name in ("model", "parameters")}
        empty = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        return Views(
            images=torch.stack([empty if row.pixels is None else row.pixels for row in rows]),
            metadata=[{**common, **row.metadata} for row in rows],
            failed=[row.failed for row in rows],
            upscaled=[row.upscaled for row in rows],
            seconds=work.seconds,
            notes=work.notes,
        )


class Described(Drawing):
    """A generator that may describe an image, in all stages but the last, before it draws."""

    def study(self, images: Tensor) -> Study:
        """Go through all stages but the last."""
        rows = [Row(image=image, seed=0) for image in images]
        work = run(self.stages[:-1], rows)
        shared = [Shared(metadata=row.metadata, failed=row.failed) for row in rows]
        return Study(rows=shared, seconds=work.seconds, notes=work.notes)

    def more(
        self, images: Tensor, shared: Sequence[Shared], ids: Sequence[str], seeds: Sequence[int]
    ) -> Views:
        """Go through the last stage; enlarged originals are kept with first views already."""
        rows = [
            Row(
                image=image,
                seed=seed,
                prompt=str(about.metadata.get("prompt", "")),
                metadata=dict(about.metadata),
                failed=about.failed,
            )
            for image, about, seed in zip(images, shared, seeds, strict=True)
        ]
        return self.drawn(rows, self.stages[-1:])
