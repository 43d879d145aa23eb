"""The plain PyTorch engine.

Worker processes decode the files of a batch every epoch and cut the views' crops. Workers decode,
crop and resize to the boxes that the specification draws for (seed, epoch, index, view); flip,
colour, blur and normalisation happen on the training device, by the same function as for every
engine. A worker makes whole batches, so that Philox runs once per batch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssgear.data.augment import AugmentParams, AugmentSpec, crop_resize, finish, sample
from ssgear.data.augment.policy import apply_policy
from ssgear.data.loaders.base import Streams, ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.order.missing import Found, LostImages, Rows
from ssgear.data.order.sampler import Items, Sampler
from ssgear.data.sources import load_images
from ssgear.data.sources.decode import BadImageError, to_tensor
from ssgear.data.sources.loading import GREY
from ssgear.data.sources.square import centre_squares
from ssgear.errors import DataError
from ssgear.kernels import philox

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One batch to make: which rows, of which stream, at which step of the run."""

    items: Items
    stream: str
    epoch: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an engine that reads files makes of a request."""

    request: Request
    """What was asked for, but with the images that really stand in the rows."""
    crops: list[Tensor]
    """uint8 [n, 3, size, size] for each view."""
    images: Tensor | None
    """The whole images (`square.py`), of the same shape, where they are asked for."""
    found: Found = ()
    """Images that turned out to be lost."""


class CropDataset(Dataset[Made | DataError]):
    """Answers a `Request` with uint8 crops, one tensor [n, 3, side, side] per view."""

    def __init__(self, lost: LostImages, plan: ViewPlan, sizes: Tensor, sampler: Sampler) -> None:
        """Keep what a worker process needs; `sizes` [N, 2] are the images' heights and widths."""
        self.source = lost.source
        self.lost = lost
        self.plan = plan
        self.sizes = sizes
        self.counts = sampler.num_images, sampler.num_synthetic

    def __getitem__(self, request: Request) -> Made | DataError:
        """Decode the rows of a batch and cut every view's crop from each."""
        try:
            return self._make(request)
        except DataError as error:
            return error  # raised here, it would reach the trainer as the text of a traceback

    def rows(self, request: Request, read: Callable[[int], T]) -> Rows[T]:
        """Return the reader of a batch's rows, which replaces what is lost."""
        seed = self.plan.stream_seed(request.stream)
        return Rows(
            self.source,
            request.items,
            read,
            key=philox.derive_key(seed, "stand-in", request.epoch),
            counts=self.counts,
            lost=self.lost.reasons,
            needs_index=self.plan.needs_images,
        )

    def draw(self, request: Request) -> list[AugmentParams]:
        """Draw the parameters of every view of a batch."""
        specs = self.plan.specs
        return [draw_view(s, self.plan, request, view, self.sizes) for view, s in enumerate(specs)]

    def _make(self, request: Request) -> Made:
        plan, index = self.plan, request.items.index
        rows, params = self.rows(request, self._decode), self.draw(request)
        empty = partial(torch.empty, dtype=torch.uint8)
        crops = [empty(len(index), 3, side, side) for side in plan.sides]
        images = empty(len(index), 3, plan.size, plan.size) if plan.needs_images else None
        for row in range(len(index)):
            images_of = rows.read(row)
            if rows.changed(row):
                params = self.draw(replace(request, items=rows.items))
            for view, (crop, drawn, spec) in enumerate(zip(crops, params, plan.specs, strict=True)):
                image = images_of[int(rows.items.rows_of(view)[row])]
                crop[row] = _cut(image, drawn.box[row], crop.shape[-1], spec)
            if images is not None:
                image = images_of[int(rows.items.index[row])]
                images[row] = centre_squares(image[None], plan.size)[0]
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
        made = replace(request, items=rows.items)
        return Made(request=made, crops=crops, images=images, found=rows.found)

    def _decode(self, place: int) -> Tensor:
        image = to_tensor(self.source.image(place))
        if list(image.shape[1:]) != self.sizes[place].tolist():
            raise BadImageError("its size changed while training")
        return image


def draw_view(
    spec: AugmentSpec, plan: ViewPlan, request: Request, view: int, sizes: Tensor
) -> AugmentParams:
    """Draw the parameters of one view of a batch; worker and trainer get the same."""
    rows = request.items.rows_of(view)
    return sample(
        spec,
        seed=plan.stream_seed(request.stream),
        epoch=request.epoch,
        indices=request.items.draw,
        view=view,
        heights=sizes[rows, 0],
        widths=sizes[rows, 1],
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
        self, lost: LostImages, sizes: Tensor, sampler: Sampler, plan: ViewPlan, workers: int
    ) -> None:
        """Keep the source, what is lost of it, and its images' heights and widths [N, 2]."""
        self.dataset = CropDataset(lost, plan, sizes, sampler)
        self.lost = lost
        self.labels = lost.source.labels
        self.sampler = sampler
        self.plan = plan
        self.workers = workers

    def epoch(self, epoch: int, first: int, streams: Streams) -> Iterator[Batch]:
        """Yield the batches of an epoch from its step `first` on."""
        with contextlib.closing(self._made(self._requests(epoch, first, streams))) as made:
            for each in made:
                self.lost.add(each.found)
                yield self._batch(each)

    def _made(self, requests: Iterator[Request]) -> Generator[Made, None, None]:
        """Yield what was made of each request, in order."""
        loader: DataLoader[Made | DataError] = DataLoader(
            self.dataset,
            sampler=requests,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=False,
            generator=torch.Generator(),  # workers are seeded by it: the global state stays
        )
        for made in loader:
            if isinstance(made, DataError):
                raise made
            yield made

    def _requests(self, epoch: int, first: int, streams: Streams) -> Iterator[Request]:
        order = functools.cache(partial(self.sampler.order, epoch))
        for step in range(first, self.sampler.steps_per_epoch):
            number = epoch * self.sampler.steps_per_epoch + step
            for stream in streams(number):
                items = self.sampler.items(order(stream), step)
                yield Request(items=items, stream=stream, epoch=epoch, number=number)

    def _batch(self, made: Made) -> Batch:
        plan, request = self.plan, made.request
        views = []
        drawn = self.dataset.draw(request)
        for crop, params, spec in zip(made.crops, drawn, plan.specs, strict=True):
            there = crop.to(plan.device)
            views.append(finish(there, params, spec, channels_last=plan.channels_last))
        fetch = self._fetch if plan.needs_images else None
        return plan.batch(
            views, request.items, self.labels, request.epoch, request.number, made.images, fetch
        )

    def _fetch(self, index: Tensor) -> Tensor:
        workers = self.workers
        return load_images(
            self.dataset.source, index.cpu(), self.plan.size, workers=workers, missing=GREY
        )
