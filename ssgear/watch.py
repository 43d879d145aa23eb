"""The callbacks that `ssgear.train` puts around a run.

Readings while it trains, the export, final figures, the report. They stand on the top layer because
they join rooms that do not know each other: engine, evaluation and report. Only rank 0 measures,
inside `run.export_weights()`, at whose end the others wait for it, however long it takes.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssgear.data.batch import Batch
from ssgear.data.resident import ResidentLoader
from ssgear.data.scan import GREY, load_images, load_readable
from ssgear.data.sources import Source, open_probe_source
from ssgear.engine.callbacks import Callback, Reason, Run
from ssgear.engine.shown import as_pixels, make_views
from ssgear.evaluation.features import extract
from ssgear.evaluation.health import health
from ssgear.evaluation.knn import knn_accuracy, nearest
from ssgear.evaluation.protocols import EvalData
from ssgear.evaluation.shifts import shift_maps, shifted_features
from ssgear.evaluation.summary import evaluate_encoder
from ssgear.models.encoders import Normalized, build_encoder, save_encoder
from ssgear.report.plots import project_2d
from ssgear.report.report import write_report
from ssgear.storage.atomic import write_json

HEALTH_IMAGES = 512
MAP_IMAGES = 1000
SHOWN_IMAGES = 8
SHOWN_VIEWS = 4
SHOWN_NEIGHBOURS = 6

Grid = list[list[np.ndarray[Any, Any]]]
"""Rows of pictures [h, w, 3] uint8: an image and its views."""


@dataclass
class Splits:
    """Images for readings, loaded once when first asked for.

    Uint8 [N, 3, size, size] and labels.
    """

    run: Run
    limit: int | None
    _loaded: EvalData | None = field(default=None, repr=False)

    def load(self) -> EvalData:
        """Return both splits, each cut to evenly spread `limit` images."""
        if self._loaded is None:
            run = self.run
            train = labelled_source(run)
            if train.labels is None and run.source.name == "stl10":
                train = open_probe_source(run.config.data)
            if run.test is None:
                run.log.note(run.step, "no test images: figures are of the training images")
            test = run.test or train
            train_images, train_labels = self._part(train)
            test_images, test_labels = self._part(test)
            self._loaded = EvalData(
                train_images=train_images,
                train_labels=train_labels,
                test_images=test_images,
                test_labels=test_labels,
                classes=train.classes,
            )
        return self._loaded

    def _pick(self, source: Source) -> Tensor:
        count = len(source) if self.limit is None else min(self.limit, len(source))
        return torch.linspace(0, len(source) - 1, count).round().long()

    def _part(self, source: Source) -> tuple[Tensor, Tensor | None]:
        """Return images and labels of a split, without those that vanished since the run began."""
        loader, size = self.run.loader, self.run.plan.size
        ours, rows = source is self.run.source, self._pick(source)
        if isinstance(loader, ResidentLoader) and ours and loader.images.shape[-1] == size:
            images = loader.images.cpu()[rows]
        else:
            workers = self.run.config.data.workers
            images, rows = load_readable(source, rows, size, workers=workers)
        return images, None if source.labels is None else source.labels[rows]


def labelled_source(run: Run) -> Source:
    """Return the training images themselves, whatever set the method makes of them."""
    return run.source if run.original is None else run.original


class Readings(Callback):
    """Every few epochs.

    KNN where there are labels, and label-free health with a warning when features collapse.
    """

    def __init__(self) -> None:
        """Start without images; they are loaded at the first reading."""
        self.splits: Splits | None = None
        self._last: tuple[int, dict[str, Any]] = (-1, {})

    def on_epoch(self, run: Run) -> None:
        """Take a reading where one is due."""
        every = run.config.eval.every
        epoch = run.step // run.steps_per_epoch
        if every == 0 or epoch % every or not run.method.trains_encoder:
            return
        with run.export_weights():
            if run.world.is_main:
                self.read(run)

    def read(self, run: Run) -> dict[str, Any]:
        """Measure, log and return the figures; those of this very step are not measured twice."""
        if self._last[0] != run.step:
            self._last = run.step, self._measure(run)
        return self._last[1]

    def _measure(self, run: Run) -> dict[str, Any]:
        if self.splits is None:
            self.splits = Splits(run, run.config.eval.max_images)
        data = self.splits.load()
        encoder = run.inference_encoder()
        test = extract(encoder, data.test_images, device=run.device)
        figures: dict[str, Any] = {"epoch": round(run.epoch, 4)}
        if data.train_labels is not None and data.test_labels is not None:
            train = extract(encoder, data.train_images, device=run.device)
            figures["knn"] = knn_accuracy(train, data.train_labels, test, data.test_labels)
        z1, z2 = embed_two_views(run, data.test_images[:HEALTH_IMAGES])
        state = health(z1, z2, test)
        figures |= {
            "alignment": state.alignment,
            "uniformity": state.uniformity,
            "effective_rank": state.effective_rank,
            "collapsed": state.collapsed,
        }
        if not run.log.holds("eval", run.step):
            run.log.write("eval", run.step, figures)
        knn = f"kNN {100 * figures['knn']:.1f} %, " if "knn" in figures else ""
        run.log.say(
            f"epoch {run.epoch:.4g}: {knn}effective rank {state.effective_rank:.1f}, alignment "
            f"{state.alignment:.3f}, uniformity {state.uniformity:.3f}"
        )
        if state.collapsed:
            run.log.note(
                run.step,
                f"the features have collapsed (effective rank {state.effective_rank:.1f}): images "
                f"are hardly told apart; {run.method.collapse_hint}",
            )
        return figures


@torch.no_grad()
def embed_two_views(run: Run, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the method compares of two views of some images, in evaluation mode.

    Two of [n, D].
    """
    run.method.eval()
    views = make_views(run, images, 2)
    rows = torch.arange(len(images))
    batch = Batch(views=views, index=rows, position=rows, seed=run.config.seed, device=run.device)
    first, second, *_ = run.method.compared(run.method.phases[-1], batch)
    return first.float(), second.float()


class Export(Callback):
    """At the end: `encoder.safetensors` and `encoder.json`."""

    def on_end(self, run: Run, reason: Reason) -> None:
        """Write the encoder, averaged weights where an average is kept."""
        with run.export_weights():
            if run.world.is_main:
                spec = run.plan.specs[0]
                save_encoder(run.method.encoder, run.directory, mean=spec.mean, std=spec.std)


class FinalFigures(Callback):
    """At the end of a finished run: probe and kNN against the untrained encoder and raw pixels.

    `summary.json`.
    """

    def __init__(self, readings: Readings) -> None:
        """Share the readings' images."""
        self.readings = readings

    def on_end(self, run: Run, reason: Reason) -> None:
        """Measure and write the summary."""
        with run.export_weights():
            if run.world.is_main and reason == "finished":
                self._measure(run)

    def _measure(self, run: Run) -> None:
        if not run.config.eval.final or not run.method.trains_encoder:
            write_json(run.directory / "summary.json", self._facts(run))
            return
        figures = self.readings.read(run)
        assert self.readings.splits is not None
        data = self.readings.splits.load()
        if data.labelled:
            run.log.say(
                "final figures: linear probe and kNN, against the untrained encoder and raw pixels"
            )
        untrained = build_encoder(run.config.model, run.plan.size, seed=run.config.seed)
        spec = run.plan.specs[0]
        summary = evaluate_encoder(
            run.inference_encoder().eval(),
            data,
            untrained=Normalized(untrained, spec.mean, spec.std).to(run.device).eval(),
            also=run.method.final,
            device=run.device,
        )
        summary["health"] = {k: v for k, v in figures.items() if k not in ("epoch", "knn")}
        run.results["summary"] = summary
        write_json(run.directory / "summary.json", {**summary, **self._facts(run)})

    def _facts(self, run: Run) -> dict[str, Any]:
        splits = self.readings.splits
        data = splits.load() if splits is not None else None
        sources = (*run.sources, *([run.test] if run.test else []))
        unread = [bad for source in sources for bad in source.bad]
        lost = run.loader.lost.files() if run.loader.lost else []
        facts = {
            "method": run.config.method_name,
            "source": run.source.name,
            "num_train": len(run.source),
            "num_synthetic": 0 if run.synthetic is None else len(run.synthetic),
            "num_stored": 0 if run.stored is None else len(run.stored.source),
            "num_test": None if data is None else len(data.test_images),
            "classes": list(labelled_source(run).classes or ()),
            "epochs": run.epoch,
            "steps": run.step,
            "images_seen": run.images_seen,
            "wall_time_s": round(run.seconds, 2),
            "device": device_name(run.device),
            "world_size": run.world.size,
            "runtime": run.runtime.name,
            "loader": run.loader.name,
            "size": run.plan.size,
            "bad_files": [f"{bad.where}: {bad.reason}" for bad in (*unread, *lost)],
            "versions": versions(),
        }
        if "generator" in run.results:
            facts["generator"] = run.results["generator"]
        return facts


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
        if self.readings.splits is None:
            self.readings.splits = Splits(run, run.config.eval.max_images)
        data = self.readings.splits.load()
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
        **named,
    }


def device_name(device: torch.device) -> str:
    """Return the name of a GPU or of the processor with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {_processor()}, {torch.get_num_threads()} thread(s)"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    named = {"python": platform.python_version()}
    for package in ("ssgear", "torch", "torchvision", "timm", "deepspeed", "numpy"):
        try:
            named[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return named
