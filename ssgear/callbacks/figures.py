"""The callback that measures a finished run and writes `summary.json`.

Probe and kNN, against the untrained encoder and raw pixels, and the facts that they belong to.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ssgear.callbacks.readings import Readings, labelled_source
from ssgear.data.loaders.resident import ResidentLoader
from ssgear.data.sources import Source, has_labelled_part, open_probe_source, scan
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.features.extract import PIXEL_SIDE
from ssgear.evaluation.features.store import FeatureStore
from ssgear.evaluation.images import EvalData, ImageRows, data_of
from ssgear.evaluation.results import fields_of, write_figures
from ssgear.evaluation.subject import Subject
from ssgear.evaluation.summary import Pixels, Summary, evaluate_encoder
from ssgear.methods.base import trains_encoder
from ssgear.models.encoders import Normalized, build_encoder
from ssgear.storage.atomic import PREFIX, Json

SPARE = 1.25
"""Times the size of the features that must be free."""
PIXEL_WIDTH = 3 * PIXEL_SIDE**2
FEATURES = "features"
"""Folder in a run's directory where features and outcomes are kept for later evaluations."""


@dataclass(frozen=True, kw_only=True)
class Final:
    """What was measured at the end of a run, for the report."""

    subject: Subject
    """The encoder and all images."""
    summary: Summary


class FinalFigures(Callback):
    """At the end of a finished run: the figures of the encoder and of its baselines."""

    def __init__(self, readings: Readings) -> None:
        """Share the readings, whose last one is part of the summary."""
        self.readings = readings
        self.final: Final | None = None
        self._num_test: int | None = None

    def on_end(self, run: Run, reason: Reason) -> None:
        """Measure and write the summary."""
        with run.export_weights():
            if run.world.is_main and reason == "finished":
                self._measure(run)

    def _measure(self, run: Run) -> None:
        if not run.config.eval.final or not trains_encoder(run.method):
            self._write(run, Summary(), {})
            return
        figures = self.readings.read(run)
        data, card = final_data(run), run.method.card
        self._num_test = len(data.test_images)
        encoder = run.inference_encoder().eval()
        has_room = has_room_for(run.directory, data, encoder.num_features)
        if not has_room:
            run.log.note(
                run.step,
                f"{run.directory}: too little space to keep features; they stay in memory",
            )
        subject = Subject(
            encoder,
            data,
            run.device,
            store=FeatureStore(folder=run.directory / FEATURES if has_room else None),
            title="this run",
            run=run.directory,
            name=run.source.name,
        )
        summary = self._evaluate(run, subject)
        for name, reason in summary.left_out.items():
            run.log.note(run.step, f"final figures without {name}: {reason}")
        for note in summary.outcome.notes:
            run.log.note(run.step, note)
        facts = summary.facts()
        if card.judged_by:
            facts["judged_by"] = card.judged_by
        facts["health"] = {
            k: v for k, v in figures.items() if k not in ("epoch", "knn", "collapse")
        }
        self.final = Final(subject=subject, summary=summary)
        self._write(run, summary, facts)

    def _evaluate(self, run: Run, subject: Subject) -> Summary:
        """Measure the encoder and its baselines, whose features are not kept."""
        if not subject.data.labelled:
            return Summary()
        run.log.say(
            "final figures: linear probe and kNN, against the untrained encoder and raw pixels, on "
            f"{len(subject.data.train_images):,} training and {len(subject.data.test_images):,} "
            "test images"
        )
        spec, card = run.plan.specs[0], run.method.card
        network = build_encoder(run.config.model, run.plan.size, seed=run.config.seed)
        untrained = Normalized(network, spec.mean, spec.std).to(run.device).eval()
        with TemporaryDirectory(dir=run.directory, prefix=PREFIX) as folder:
            store = FeatureStore(folder=None if subject.store.folder is None else Path(folder))
            baseline = partial(Subject, data=subject.data, device=run.device, store=store)
            return evaluate_encoder(
                subject,
                untrained=baseline(untrained, title="the untrained network"),
                raw=baseline(Pixels(), title="raw pixels"),
                also=card.final,
                own=card.protocols,
            )

    def _write(self, run: Run, summary: Summary, facts: Mapping[str, Json]) -> None:
        fields = {**fields_of(summary.measures), **facts}
        run.results = dataclasses.replace(run.results, summary=fields)
        data = None if self.final is None else self.final.subject.data
        write_figures(
            run.directory / "summary.json",
            summary.measures,
            {**facts, **self._facts(run)},
            test_images=None if data is None else data.test_print,
            test_labels=None if data is None else data.test_labels,
        )

    def _facts(self, run: Run) -> dict[str, Json]:
        sources = (*run.sources, *([run.test] if run.test else []))
        unread = [bad for source in sources for bad in source.bad]
        lost = run.loader.lost.files() if run.loader.lost else []
        facts: dict[str, Json] = {
            "method": run.config.method_name,
            "source": run.source.name,
            "num_train": len(run.source),
            "num_synthetic": 0 if run.synthetic is None else len(run.synthetic),
            "num_stored": 0 if run.stored is None else len(run.stored.source),
            "num_test": self._num_test,
            "classes": list(labelled_source(run).classes or ()),
            "epochs": run.epoch,
            "steps": run.step,
            "images_seen": run.images_seen,
            "wall_time_s": round(run.meter.elapsed, 2),
            "time_s": {part: round(seconds, 2) for part, seconds in run.meter.shares().items()},
            "device": device_name(run.device),
            "world_size": run.world.size,
            "runtime": run.runtime.name,
            "loader": run.loader.name,
            "size": run.plan.size,
            "bad_files": [f"{bad.where}: {bad.reason}" for bad in (*unread, *lost)],
            "versions": versions(),
        }
        if run.results.generator:
            facts["generator"] = run.results.generator
        return facts


def has_room_for(folder: Path, data: EvalData, width: int) -> bool:
    """Whether the disk has room for the features of both encoders and of raw pixels.

    A run that took days must not end without figures because of what is only kept for later.
    """
    count = len(data.train_images) + len(data.test_images)
    return shutil.disk_usage(folder).free > SPARE * 4 * count * (2 * width + PIXEL_WIDTH)


def final_data(run: Run) -> EvalData:
    """Return all images that final figures are taken of, without those that vanished.

    Images that the loader holds in memory are read from there.
    """
    count = run.config.eval.final_images
    train = labelled_source(run)
    if train.labels is None and has_labelled_part(run.source.name):
        train = open_probe_source(run.config.data)
    test = run.test or train
    rows = [_final_rows(run, source, count) for source in (train, test)]
    return data_of(*rows)


def _final_rows(run: Run, source: Source, count: int | None) -> ImageRows:
    loader, size, config = run.loader, run.plan.size, run.config.data
    is_resident = isinstance(loader, ResidentLoader) and source is run.source
    if isinstance(loader, ResidentLoader) and is_resident and loader.images.shape[-1] == size:
        rows = ImageRows(source, size, decoded=loader.images.cpu())
    else:
        rows = ImageRows(scan(source, config)[0], size, workers=config.workers)
    return rows if count is None else rows.evenly(count)


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
