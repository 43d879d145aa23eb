"""The report at the end of a run: pictures of views, neighbours and the map, and the page itself.

A callback like those of `figures.py`, which has images and features. `write_report` only lays out;
what it shows is gathered here: what the encoder saw, which training images lie nearest to a test
image, where features lie on a plane.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ssgear.callbacks.exhibits import with_outcome
from ssgear.callbacks.figures import Final, FinalFigures
from ssgear.callbacks.previews import as_pixels, make_views
from ssgear.callbacks.samples import Samples
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources.loading import GREY, load_images
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.probes.knn import nearest
from ssgear.evaluation.subject import Subject
from ssgear.methods.base import views_seen
from ssgear.report.contents import Contents, Map, Neighbours, Pixels, Views
from ssgear.report.plots import project_2d
from ssgear.report.report import write_report
from ssgear.storage.atomic import write_bytes

MAP_IMAGES = 1000
SHOWN_IMAGES = 8
SHOWN_VIEWS = 4
SHOWN_NEIGHBOURS = 6


class Report(Callback):
    """At the end: gather what a person wants to look at and write `report.html`."""

    def __init__(self, final: FinalFigures, samples: Samples) -> None:
        """Share what was measured at the end; `samples` are those of the generator."""
        self.final = final
        self.samples = samples

    def on_end(self, run: Run, reason: Reason) -> None:
        """Write the report on rank 0."""
        with run.export_weights():
            if not run.world.is_main:
                return
            contents = Contents(card=run.method.card, samples=self.samples.contents)
            if reason == "finished" and self.final.final is not None:
                contents = self._with_pictures(run, contents, self.final.final)
            path = write_report(run.directory, contents)
            run.results = dataclasses.replace(run.results, report=path)

    def _with_pictures(self, run: Run, contents: Contents, final: Final) -> Contents:
        subject, summary = final.subject, final.summary
        draw, maps, plot = run.method.card.maps, None, feature_map(subject)
        if draw is not None and subject.test.shape[1] == 2 and subject.data.labelled:
            maps = draw(subject.encode, subject.data.labelled_splits)
        if plot is not None:
            save_map(run.directory, plot)
        contents = with_outcome(contents, summary.outcome, subject.data, summary.baselines)
        return dataclasses.replace(
            contents,
            views=self._views(run, subject.data),
            neighbours=neighbours(subject),
            map=plot,
            maps=maps,
        )

    def _views(self, run: Run, data: EvalData) -> Views:
        if run.original is not None:
            return own_grid(run)
        if run.stored is not None:
            return batch_grid(run)
        count = len(data.train_images)
        rows = torch.arange(0, count, max(1, count // SHOWN_IMAGES))[:SHOWN_IMAGES]
        return view_grid(run, data.train_images[rows])


def view_grid(run: Run, images: Tensor) -> Views:
    """Return each image and views that the encoder saw of such images, each of its own size.

    Where views are made differently, one of each kind at least.
    """
    count = max(SHOWN_VIEWS, len(run.plan.specs))
    rows, views = torch.arange(len(images)), make_views(run, images, count)
    batch = Batch(views=views, index=rows, position=rows, seed=run.config.seed, device=run.device)
    seen = views_seen(run.method, batch)
    chosen = seen[:: max(1, len(seen) // count)][:count]
    return Views(rows=_grid(images, [as_pixels(run, view) for view in chosen]))


def own_grid(run: Run) -> Views:
    """Return the same of a set that the method makes of the images: its first batch.

    Where the encoder is shown one image of each, the grid goes on through the epochs.
    """
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    batch = batch.rows(slice(0, SHOWN_IMAGES))
    seen = list(views_seen(run.method, batch))
    for epoch in range(1, SHOWN_VIEWS if len(seen) == 1 else 1):
        seen += views_seen(run.method, dataclasses.replace(batch, epoch=epoch))
    whole = load_images(run.source, batch.index, run.plan.sides[0], missing=GREY)
    margin = (whole.shape[-1] - seen[0].shape[-1]) // 2
    side = slice(margin, margin + seen[0].shape[-1])
    rows = _grid(whole[:, :, side, side], [as_pixels(run, view) for view in seen])
    return Views(rows=rows)


def batch_grid(run: Run) -> Views:
    """Return the same of the first images of the run, and which views are stored generated ones.

    The views are those of the first batch.
    """
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    real = (batch.index < len(run.source)).nonzero()[:SHOWN_IMAGES, 0]
    workers, size = run.config.data.workers, run.plan.size
    images = load_images(run.source, batch.index[real], size, workers=workers, missing=GREY)
    assert batch.generated is not None
    marks = batch.generated.cpu()[:, real].T.numpy()
    real = real.to(run.device)
    rows = _grid(images, [as_pixels(run, view[real]) for view in batch.views])
    return Views(rows=rows, stored=marks)


def _grid(images: Tensor, shown: Sequence[Tensor]) -> list[list[Pixels]]:
    """Return rows of pictures: an image and its views."""
    columns = [column.permute(0, 2, 3, 1).numpy() for column in (images.cpu(), *shown)]
    return [list(row) for row in zip(*columns, strict=True)]


def _spread(count: int, most: int) -> Tensor:
    """Return at most that many rows, evenly spread."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def neighbours(subject: Subject) -> Neighbours:
    """Return a few test images and the training images whose features are nearest to theirs.

    Where classes are known, also how many of the neighbours of *all* test images are of the same.
    """
    data, train, test = subject.data, subject.train, subject.test
    rows = _spread(len(test), SHOWN_IMAGES)
    labels, others = data.test_labels, data.train_labels
    is_labelled = labels is not None and others is not None and bool(data.classes)
    similarities, nearby = nearest(test if is_labelled else test[rows], train, SHOWN_NEIGHBOURS)
    overall = None
    if is_labelled:
        assert labels is not None and others is not None
        overall = float((others[nearby] == labels[:, None]).double().mean())
        similarities, nearby = similarities[rows], nearby[rows]
    pictures = data.train_images[nearby.flatten()].permute(0, 2, 3, 1)
    shown = Neighbours(
        queries=data.test_images[rows].permute(0, 2, 3, 1).numpy(),
        neighbours=pictures.reshape(*nearby.shape, *pictures.shape[1:]).numpy(),
        similarities=similarities.tolist(),
        measure="1 - d² / 2 on the map" if test.shape[1] == 2 else "cosine similarity",
    )
    names = data.classes
    if not is_labelled or not names or labels is None or others is None:
        return shown
    return dataclasses.replace(
        shown,
        query_labels=[names[i] for i in labels[rows].tolist()],
        neighbour_labels=[[names[i] for i in row] for row in others[nearby].tolist()],
        overall=overall,
        num_queries=len(test),
    )


def feature_map(subject: Subject) -> Map | None:
    """Return where features of test images lie; None of fewer than three."""
    test, data = subject.test, subject.data
    rows = _spread(len(test), MAP_IMAGES)
    if len(rows) < 3:
        return None
    plane = test.shape[1] == 2
    return Map(
        xy=test[rows].numpy() if plane else project_2d(test[rows]),
        projected=not plane,
        labels=None if data.test_labels is None else data.test_labels[rows].numpy(),
        classes=data.classes,
    )


def save_map(directory: Path, plot: Map) -> None:
    """Write `map.safetensors`, which a comparison of runs shows side by side."""
    tensors = {"xy": torch.as_tensor(plot.xy).float().contiguous()}
    if plot.labels is not None:
        tensors["labels"] = torch.as_tensor(plot.labels).long().contiguous()
    metadata = {"classes": json.dumps(list(plot.classes or ()))}
    write_bytes(directory / "map.safetensors", safetensors.torch.save(tensors, metadata=metadata))
