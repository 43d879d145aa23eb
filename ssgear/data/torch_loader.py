"""The plain PyTorch engine.

Worker processes decode the files of a batch every epoch and cut the views' crops. Workers decode,
crop and resize to the boxes that the specification draws for (seed, epoch, index, view); flip,
colour, blur and normalisation happen on the training device, by the same function as for every
engine. A worker makes whole batches, so that Philox runs once per batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssgear.data.augment import AugmentParams, AugmentSpec, crop_resize, finish, sample
from ssgear.data.batch import Batch
from ssgear.data.loading import Streams, ViewPlan
from ssgear.data.policy import apply_policy
from ssgear.data.sampler import Items, Sampler
from ssgear.data.sources import Source, load_images
from ssgear.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Request:
    """One batch to make: which rows, of which stream, at which step of the run."""

    items: Items
    stream: str
    epoch: int
    number: int


Made = tuple[Request, list[Tensor], Tensor | None]
"""A request, its crops for each view, and the whole images where they are asked for."""


class CropDataset(Dataset[Made]):
    """Answers a `Request` with uint8 crops, one tensor [n, 3, side, side] per view."""

    def __init__(self, source: Source, plan: ViewPlan, sizes: Tensor) -> None:
        """Keep what a worker process needs; `sizes` [N, 2] are the images' heights and widths."""
        self.source = source
        self.plan = plan
        self.sizes = sizes

    def __getitem__(self, request: Request) -> Made:
        """Decode the rows of a batch and cut every view's crop from each."""
        plan, index = self.plan, request.items.index
        params = [
            draw_view(spec, plan, request, view, self.sizes) for view, spec in enumerate(plan.specs)
        ]
        empty = partial(torch.empty, dtype=torch.uint8)
        crops = [empty(len(index), 3, side, side) for side in plan.sides]
        images = empty(len(index), 3, plan.size, plan.size) if plan.needs_images else None
        whole = AugmentSpec.named("none")
        for row, place in enumerate(index.tolist()):
            image = self.source.decode(place)
            if list(image.shape[1:]) != self.sizes[place].tolist():
                raise DataError(
                    f"{self.source.where(place)}: its size changed while training; start again"
                )
            for crop, drawn, spec in zip(crops, params, plan.specs, strict=True):
                crop[row] = _cut(image, drawn.box[row], crop.shape[-1], spec)
            if images is not None:
                box = torch.tensor([0.0, 0.0, *image.shape[1:]])
                images[row] = _cut(image, box, plan.size, whole)
        for view, (drawn, spec) in enumerate(zip(params, plan.specs, strict=True)):
            if spec.policy is not None:
                crops[view] = apply_policy(
                    crops[view],
                    drawn.flip,
                    spec.policy,
                    seed=plan.stream_seed(request.stream),
                    epoch=request.epoch,
                    indices=request.items.draw,
                    view=view,
                )
        return request, crops, images


def draw_view(
    spec: AugmentSpec, plan: ViewPlan, request: Request, view: int, sizes: Tensor
) -> AugmentParams:
    """Draw the parameters of one view of a batch; worker and trainer get the same."""
    index = request.items.index
    return sample(
        spec,
        seed=plan.stream_seed(request.stream),
        epoch=request.epoch,
        indices=request.items.draw,
        view=view,
        heights=sizes[index, 0],
        widths=sizes[index, 1],
    )


def _cut(image: Tensor, box: Tensor, size: int, spec: AugmentSpec) -> Tensor:
    """Return the crop [3, size, size] uint8 of one image [3, H, W]."""
    crop = crop_resize(
        image[None], box[None], size, interpolation=spec.interpolation, antialias=spec.antialias
    )
    return crop[0].to(torch.uint8)


class TorchLoader:
    """Batches from files, decoded by `workers` processes. Deterministic in (seed, epoch, step)."""

    name = "torch"

    def __init__(
        self, source: Source, sizes: Tensor, sampler: Sampler, plan: ViewPlan, workers: int
    ) -> None:
        """Keep the source and the heights and widths [N, 2] of its images."""
        self.dataset = CropDataset(source, plan, sizes)
        self.labels = source.labels
        self.sampler = sampler
        self.plan = plan
        self.workers = workers

    def epoch(self, epoch: int, first: int, streams: Streams) -> Iterator[Batch]:
        """Yield the batches of an epoch from its step `first` on."""
        loader: DataLoader[Made] = DataLoader(
            self.dataset,
            sampler=self._requests(epoch, first, streams),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=False,
        )
        for request, crops, images in loader:
            yield self._batch(request, crops, images)

    def _requests(self, epoch: int, first: int, streams: Streams) -> Iterator[Request]:
        orders: dict[str, Tensor] = {}
        for step in range(first, self.sampler.steps_per_epoch):
            number = epoch * self.sampler.steps_per_epoch + step
            for stream in streams(number):
                if stream not in orders:
                    orders[stream] = self.sampler.order(epoch, stream)
                items = self.sampler.items(orders[stream], step)
                yield Request(items=items, stream=stream, epoch=epoch, number=number)

    def _batch(self, request: Request, crops: list[Tensor], images: Tensor | None) -> Batch:
        plan = self.plan
        views = []
        for view, (crop, spec) in enumerate(zip(crops, plan.specs, strict=True)):
            drawn = draw_view(spec, plan, request, view, self.dataset.sizes)
            views.append(finish(crop.to(plan.device, torch.float32), drawn.to(plan.device), spec))
        fetch = self._fetch if plan.needs_images else None
        return plan.batch(
            views, request.items, self.labels, request.epoch, request.number, images, fetch
        )

    def _fetch(self, index: Tensor) -> Tensor:
        workers = self.workers
        return load_images(self.dataset.source, index.cpu(), self.plan.size, workers=workers)
