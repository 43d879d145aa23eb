"""The DALI engine: files are read by threads, decoded, cropped and resized by NVIDIA's DALI.

The order and the boxes are ours, and so is all that follows the crop, as for the torch engine.
JPEGs go to DALI as they are (`jpeg.py` says which); every other image is decoded by `decode.py` and
goes as an uncompressed PPM file. On the CPU the decoded pixels are those of Pillow to the bit; on a
GPU (*untested on hardware*) JPEGs are decoded there, to within rounding.

DALI gives up a whole batch for one bad file, and the pipeline with it. Then every file under way is
looked at, what is bad is replaced (`missing.py`), and a new pipeline goes on at the same batch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from torch import Tensor

from ssgear import distributed
from ssgear.data.loaders.dali_pipeline import (
    DEPTH,
    CropPipeline,
    Feed,
    Output,
    as_ppm,
    dali_file,
    feed,
)
from ssgear.data.loaders.workers import CropDataset, Made, Request, TorchLoader
from ssgear.data.order.missing import Rows
from ssgear.data.sources.decode import BadImageError, checked_size, open_rgb
from ssgear.data.sources.square import centre_boxes
from ssgear.errors import DataError, first_line

AHEAD = 2
"""Batches whose files are read before the pipeline has room for them."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A batch that was read, as the pipeline takes it."""

    request: Request
    """What was asked for, with the images that really stand in the rows."""
    rows: Rows[bytes]
    """Reads a row again, or its stand-in."""
    files: Sequence[dict[int, bytes]]
    """For each row, the encoded images that it shows, by place."""
    feed: Feed
    """The files and the boxes of all crops."""


class DaliLoader(TorchLoader):
    """Batches from files, made by DALI. Deterministic in (seed, epoch, step)."""

    name = "dali"
    _pipeline: CropPipeline | None = None

    def _made(self, requests: Iterator[Request]) -> Generator[Made, None, None]:
        """Yield what was made of each request; the pipeline works on the next ones meanwhile."""
        running: deque[Prepared] = deque()
        ahead = _Preparation(self.dataset, self._outputs, self._threads, self._apart)
        with contextlib.closing(ahead):
            try:
                ahead.begin(requests)
                self._fill(running, ahead)
                while running:
                    crops = self._take(running, ahead)
                    done = running.popleft()
                    self._fill(running, ahead)
                    images = crops.pop() if self.plan.needs_images else None
                    found = sorted(done.rows.found)
                    yield Made(request=done.request, crops=crops, images=images, found=found)
            finally:
                if running:  # left in the middle: what is in the pipeline is nobody's
                    self._pipeline = None

    @property
    def _threads(self) -> int:
        here = distributed.world_from_environment().local_size
        return self.workers or max(1, distributed.usable_cores() // here)

    @property
    def _apart(self) -> bool:
        """Whether the views of a row may be made of different images."""
        return self.sampler.views is not None

    @property
    def _outputs(self) -> list[Output]:
        """Return what is cut from every image: each view's crop, then the whole where asked for."""
        plan = self.plan
        whole = Output(size=plan.size, interpolation="bicubic", antialias=True)
        views = [
            Output(size=side, interpolation=spec.interpolation, antialias=spec.antialias)
            for spec, side in zip(plan.specs, plan.sides, strict=True)
        ]
        return [*views, whole] if plan.needs_images else views

    def _fill(self, running: deque[Prepared], ahead: _Preparation) -> None:
        """Feed the pipeline; wait for files only where it has nothing else to do."""
        while len(running) < DEPTH and ahead.has_next(wait=not running):
            prepared = ahead.next()
            self._feed(prepared)
            running.append(prepared)

    def _feed(self, prepared: Prepared) -> None:
        if self._pipeline is None:
            rows = self.sampler.batch_size // self.sampler.world_size
            self._pipeline = CropPipeline(
                self._outputs, rows, self._threads, self.plan.device, apart=self._apart
            )
        self._pipeline.feed(prepared.feed)

    def _take(self, running: deque[Prepared], ahead: _Preparation) -> list[Tensor]:
        """Return the crops of the oldest batch, whatever had to be replaced for it."""
        while True:
            try:
                assert self._pipeline is not None
                return self._pipeline.take()
            except RuntimeError as error:
                self._pipeline = None
                mended = [ahead.mend(each) for each in running]
                if all(new.files == old.files for new, old in zip(mended, running, strict=True)):
                    raise DataError(
                        f"DALI gave up: {first_line(error)}; use --data.loader torch"
                    ) from error
                running.clear()
                for prepared in mended:
                    self._feed(prepared)
                    running.append(prepared)


class _Preparation:
    """Reads the files of the batches to come, in threads and in order."""

    def __init__(
        self, dataset: CropDataset, outputs: Sequence[Output], threads: int, apart: bool
    ) -> None:
        self._dataset = dataset
        self._outputs = outputs
        self._apart = apart
        self._requests: Iterator[Request] = iter(())
        self._waiting: deque[Future[Prepared]] = deque()
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="ssgear-read")
        self._foreman = ThreadPoolExecutor(1, thread_name_prefix="ssgear-prepare")

    def close(self) -> None:
        """Stop; what has not begun is not waited for."""
        self._foreman.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    def begin(self, requests: Iterator[Request]) -> None:
        """Read the first batches of these."""
        self._requests = requests
        for request in itertools.islice(requests, DEPTH + AHEAD):
            self._waiting.append(self._foreman.submit(self._prepare, request))

    def has_next(self, wait: bool) -> bool:
        """Whether there is another batch; without `wait`, whether it has been read."""
        return bool(self._waiting) and (wait or self._waiting[0].done())

    def next(self) -> Prepared:
        """Return the next batch and begin to read another."""
        prepared = self._waiting.popleft().result()
        for request in itertools.islice(self._requests, 1):
            self._waiting.append(self._foreman.submit(self._prepare, request))
        return prepared

    def mend(self, prepared: Prepared) -> Prepared:
        """Return a batch that a pipeline may have failed at, with what is bad replaced.

        Where nothing is, our own decoder makes pixels of all its files.
        """
        rows, files = prepared.rows, list(prepared.files)
        bad = [
            (row, place, why)
            for row, each in enumerate(files)
            for place, data in each.items()
            if (why := _damage(data))
        ]
        for row, place, why in bad:
            rows.lose(place, why)
            files[row] = rows.read(row)
        if not bad:
            files = [{place: as_ppm(open_rgb(d)) for place, d in each.items()} for each in files]
        return self._prepared(prepared.request, rows, files)

    def _prepare(self, request: Request) -> Prepared:
        rows = self._dataset.rows(request, self._encoded)
        files = list(self._readers.map(rows.read, range(len(request.items.index))))
        return self._prepared(request, rows, files)

    def _prepared(
        self, request: Request, rows: Rows[bytes], files: Sequence[dict[int, bytes]]
    ) -> Prepared:
        dataset, items = self._dataset, rows.items
        request = replace(request, items=items)
        boxes = [drawn.box for drawn in dataset.draw(request)]
        places = [items.rows_of(view) for view in range(len(boxes))]
        if dataset.plan.needs_images:
            boxes.append(centre_boxes(dataset.sizes[items.index]))
            places.append(items.index)
        shown = places if self._apart else places[:1]
        given = [
            [each[place] for each, place in zip(files, column.tolist(), strict=True)]
            for column in shown
        ]
        made = feed(given, boxes, self._outputs)
        return Prepared(request=request, rows=rows, files=files, feed=made)

    def _encoded(self, index: int) -> bytes:
        """Return an image as DALI takes it."""
        data, size = dali_file(self._dataset.source, index)
        if list(size) != self._dataset.sizes[index].tolist():
            raise BadImageError("its size changed while training")
        return data


def _damage(data: bytes) -> str:
    """Return what is wrong with a file; empty where it can be read."""
    try:
        checked_size(data)
    except BadImageError as error:
        return str(error)
    return ""
