"""The report at the end of a run: pictures of views, neighbours and the map, and the page itself.

A callback like those of `readings.py`, whose readings have the images. `write_report` only lays
out; what it shows is gathered here: what the encoder saw, which training images lie nearest to a
test image, where features lie on a plane.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssgear.callbacks.previews import as_pixels, make_views
from ssgear.callbacks.readings import Readings
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources.loading import GREY, load_images
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.features import extract
from ssgear.evaluation.knn import nearest
from ssgear.evaluation.protocols import EvalData
from ssgear.evaluation.shifts import shift_maps, shifted_features
from ssgear.report.plots import project_2d
from ssgear.report.report import write_report

MAP_IMAGES = 1000
SHOWN_IMAGES = 8
SHOWN_VIEWS = 4
SHOWN_NEIGHBOURS = 6

Grid = list[list[np.ndarray[Any, Any]]]
"""Rows of pictures [h, w, 3] uint8: an image and its views."""


class Report(Callback):
    """At the end: gather what a person wants to look at and write `report.html`."""

    def __init__(self, readings: Readings) -> None:
        """Share the readings' images."""
        self.readings = readings

    def on_end(self, run: Run, reason: Reason) -> None:
        """Write the report on rank 0."""
        with run.export_weights():
            if not run.world.is_main:
                return
            if reason == "finished" and run.config.eval.final and run.method.trains_encoder:
                self._pictures(run)
            path = write_report(run.directory, run.results)
            run.results["report"] = path

    def _pictures(self, run: Run) -> None:
        data = self.readings.images(run)
        encoder = run.inference_encoder().eval()
        test = extract(encoder, data.test_images, device=run.device)
        train = extract(encoder, data.train_images, device=run.device)
        if run.original is not None:
            run.results["views"] = own_grid(run)
        elif run.stored is None:
            shown = data.train_images[:: max(1, len(data.train_images) // SHOWN_IMAGES)]
            run.results["views"] = view_grid(run, shown[:SHOWN_IMAGES])
        else:
            run.results["views"], run.results["stored_views"] = batch_grid(run)
        run.results["aim"] = run.method.aim
        run.results["neighbours"] = neighbours(data, train, test)
        some = torch.linspace(0, len(test) - 1, min(MAP_IMAGES, len(test))).round().long()
        if len(some) >= 3:
            plane = test.shape[1] == 2
            run.results["map"] = {
                "xy": test[some].numpy() if plane else project_2d(test[some]),
                "projected": not plane,
                "labels": None if data.test_labels is None else data.test_labels[some].numpy(),
                "classes": data.classes,
            }
        if test.shape[1] == 2 and "shifts" in run.method.final and data.test_labels is not None:
            moved = shifted_features(encoder, data.test_images, data.test_labels, device=run.device)
            run.results["shift_maps"] = shift_maps(moved, data.classes, MAP_IMAGES)


def view_grid(run: Run, images: Tensor) -> Grid:
    """Return each image and views that the encoder saw of such images, each of its own size.

    Where views are made differently, one of each kind at least.
    """
    count = max(SHOWN_VIEWS, len(run.plan.specs))
    rows, views = torch.arange(len(images)), make_views(run, images, count)
    seen = run.method.seen(
        Batch(views=views, index=rows, position=rows, seed=run.config.seed, device=run.device)
    )
    chosen = seen[:: max(1, len(seen) // count)][:count]
    return _grid(images, [as_pixels(run, view) for view in chosen])


def own_grid(run: Run) -> Grid:
    """Return the same of a set that the method makes of the images: its first batch.

    Where the encoder is shown one image of each, the grid goes on through the epochs.
    """
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    batch = batch.rows(slice(0, SHOWN_IMAGES))
    seen = list(run.method.seen(batch))
    for epoch in range(1, SHOWN_VIEWS if len(seen) == 1 else 1):
        seen += run.method.seen(dataclasses.replace(batch, epoch=epoch))
    whole = load_images(run.source, batch.index, run.plan.sides[0], missing=GREY)
    margin = (whole.shape[-1] - seen[0].shape[-1]) // 2
    side = slice(margin, margin + seen[0].shape[-1])
    return _grid(whole[:, :, side, side], [as_pixels(run, each) for each in seen])


def batch_grid(run: Run) -> tuple[Grid, np.ndarray[Any, Any]]:
    """Return the same of the first images of the run, and which views are stored generated ones.

    [rows, views] bool; the views are those of the first batch.
    """
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    real = (batch.index < len(run.source)).nonzero()[:SHOWN_IMAGES, 0]
    workers, size = run.config.data.workers, run.plan.size
    images = load_images(run.source, batch.index[real], size, workers=workers, missing=GREY)
    assert batch.generated is not None
    marks = batch.generated.cpu()[:, real].T.numpy()
    real = real.to(run.device)
    return _grid(images, [as_pixels(run, view[real]) for view in batch.views]), marks


def _grid(images: Tensor, shown: Sequence[Tensor]) -> Grid:
    columns = [column.permute(0, 2, 3, 1).numpy() for column in (images.cpu(), *shown)]
    return [list(row) for row in zip(*columns, strict=True)]


def neighbours(data: EvalData, train: Tensor, test: Tensor) -> dict[str, Any]:
    """Return a few test images and the training images whose features are nearest to theirs."""
    some = torch.linspace(0, len(test) - 1, min(SHOWN_IMAGES, len(test))).round().long()
    similarities, nearby = nearest(test[some], train, SHOWN_NEIGHBOURS)
    labelled = data.classes is not None and data.test_labels is not None
    named: dict[str, Any] = {"query_labels": None, "neighbour_labels": None}
    if labelled and data.classes and data.test_labels is not None and data.train_labels is not None:
        names = data.classes
        named["query_labels"] = [names[i] for i in data.test_labels[some].tolist()]
        named["neighbour_labels"] = [
            [names[i] for i in row] for row in data.train_labels[nearby].tolist()
        ]
    return {
        "queries": data.test_images[some].permute(0, 2, 3, 1).numpy(),
        "neighbours": data.train_images[nearby].permute(0, 1, 3, 4, 2).numpy(),
        "similarities": similarities.tolist(),
        "measure": "1 - d² / 2 on the map" if test.shape[1] == 2 else "cosine similarity",
        **named,
    }
