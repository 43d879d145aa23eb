"""Images on their way through the stages of a generator, and what becomes of them in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssgear.views.base import Shared, Study, Views
from ssgear.views.diffusion.caption import Captioner
from ssgear.views.diffusion.stages import WHOLE, Stage, Told

if TYPE_CHECKING:
    import torch
    from torch import Tensor


CAPTION = ("prompt", "caption_refused")
"""What `describe` says of an image: the same for all its views."""


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
    metadata: dict[str, Any] = field(default_factory=dict)
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


def describe(captioner: Captioner, rows: Sequence[Row], images: Tensor, fallback: str) -> None:
    """Make captions of images the prompts of rows; `fallback` is that of one of no use."""
    for row, caption in zip(rows, captioner(images), strict=True):
        row.prompt = caption.text if caption.refused is None else fallback
        row.metadata = {"prompt": row.prompt}
        if caption.refused is not None:
            row.metadata["caption_refused"] = caption.refused


def studied(rows: Sequence[Row], told: Told) -> Study:
    """Return what stages found out of rows before any was drawn."""
    shared = [Shared(metadata=row.metadata, failed=row.failed) for row in rows]
    return Study(rows=shared, seconds=told.seconds, notes=told.notes)


def known(images: Tensor, shared: Sequence[Shared], seeds: Sequence[int]) -> list[Row]:
    """Return rows of which everything is known that comes before drawing."""
    return [
        Row(
            image=image,
            seed=seed,
            prompt=each.metadata.get("prompt", ""),
            metadata=dict(each.metadata),
            failed=each.failed,
        )
        for image, each, seed in zip(images, shared, seeds, strict=True)
    ]


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


def views_of(rows: Sequence[Row], size: int, told: Told, common: Mapping[str, Any]) -> Views:
    """Return what stages made of all rows of a block; `common` goes into every row's metadata."""
    import torch

    empty = torch.zeros(3, size, size, dtype=torch.uint8)
    return Views(
        images=torch.stack([empty if row.pixels is None else row.pixels for row in rows]),
        metadata=[{**common, **row.metadata} for row in rows],
        failed=[row.failed for row in rows],
        upscaled=[row.upscaled for row in rows],
        seconds=told.seconds,
        notes=told.notes,
    )
