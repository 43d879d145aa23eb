"""Whether DALI makes the crops of ours on a device, of some of the run's own images.

Asked before a GPU's operators feed a run (`choose.py`). Decoders of JPEGs differ by rounding, so a
hundredth of an image's pixels may be off by more than `TOLERANCE`; a shifted crop, swapped colours
or another kernel is seen at once. The same question can be asked on the CPU, which the tests do;
on a GPU it is *untested on hardware*.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssgear.data.augment import AugmentSpec, crop_resize, sample
from ssgear.data.loaders.dali_pipeline import CropPipeline, Output, dali_file, feed
from ssgear.data.loaders.jpeg import plain_size
from ssgear.data.sources.decode import BadImageError, open_rgb, to_tensor
from ssgear.data.sources.source import Source
from ssgear.errors import first_line

TOLERANCE = 2
"""By how much of 255 a resampled pixel may be off."""
SHARE = 0.01
"""Share of an image's pixels that may be off by more."""
COMPARED, LOOKED_AT = 8, 32
"""Images that are compared, and those that they are chosen among: plain JPEGs come first."""


def fault(source: Source, specs: Sequence[AugmentSpec], size: int, device: torch.device) -> str:
    """Return what is wrong with DALI's crops on a device, with the figure; empty if nothing is.

    `specs` are those of the views, `size` is the run's.
    """
    chosen = _choose(source)
    if not chosen:
        return ""
    images = [to_tensor(open_rgb(data)) for _, data in chosen]
    heights, widths = (torch.tensor([image.shape[side] for image in images]) for side in (1, 2))
    indices = torch.arange(len(images))
    drawn = {"seed": 0, "epoch": 0, "indices": indices, "heights": heights, "widths": widths}
    boxes = [sample(spec, view=view, **drawn).box for view, spec in enumerate(specs)]  # type: ignore[arg-type]
    outputs = [
        Output(size=spec.side(size), interpolation=spec.interpolation, antialias=spec.antialias)
        for spec in specs
    ]
    try:
        pipeline = CropPipeline(outputs, len(images), 1, device)
        pipeline.feed(feed([[data for _, data in chosen]], boxes, outputs))
        made = [crops.cpu() for crops in pipeline.take()]
    except Exception as error:  # whatever DALI or the driver raise
        return f"DALI fails on {device}: {first_line(error)}"
    return _worst(source, [place for place, _ in chosen], images, boxes, outputs, made)


def _worst(
    source: Source,
    places: Sequence[int],
    images: Sequence[Tensor],
    boxes: Sequence[Tensor],
    outputs: Sequence[Output],
    made: Sequence[Tensor],
) -> str:
    """Return which image is off by most, and by how much; empty where none is by too much."""
    shares = torch.zeros(len(outputs), len(images))
    largest = torch.zeros(len(outputs), len(images))
    for view, (box, output, crops) in enumerate(zip(boxes, outputs, made, strict=True)):
        for row, image in enumerate(images):
            right = crop_resize(
                image[None],
                box[row : row + 1],
                output.size,
                interpolation=output.interpolation,
                antialias=output.antialias,
            )[0]
            off = (crops[row].float() - right).abs()
            shares[view, row] = (off > TOLERANCE).float().mean()
            largest[view, row] = off.max()
    worst = int(shares.argmax())
    share, most = float(shares.flatten()[worst]), int(largest.flatten()[worst])
    if share <= SHARE:
        return ""
    where = source.where(places[worst % len(images)])
    return (
        f"DALI's crops are not ours: {100 * share:.3g} % of the pixels of {where} are off by more "
        f"than {TOLERANCE} of 255, by up to {most}"
    )


def _choose(source: Source) -> list[tuple[int, bytes]]:
    """Return some images that can be read, as DALI takes them, with their places."""
    count = min(len(source), LOOKED_AT)
    places = torch.linspace(0, len(source) - 1, count).round().long().tolist()
    jpegs: list[tuple[int, bytes]] = []
    others: list[tuple[int, bytes]] = []
    for place in places:
        if len(jpegs) == COMPARED:
            break
        try:
            data, _ = dali_file(source, place)
            open_rgb(data)
        except BadImageError:
            continue
        (others if plain_size(data) is None else jpegs).append((place, data))
    return [*jpegs, *others][:COMPARED]
