"""The callback that measures a finished run and writes `summary.json`.

Probe and kNN, against the untrained encoder and raw pixels, and the facts that they belong to.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from ssgear.callbacks.readings import Readings, labelled_source
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.summary import evaluate_encoder
from ssgear.methods.base import trains_encoder
from ssgear.models.encoders import Normalized, build_encoder
from ssgear.storage.atomic import Json, write_json


class FinalFigures(Callback):
    """At the end of a finished run: the figures of the encoder and of its baselines."""

    def __init__(self, readings: Readings) -> None:
        """Share the readings' images."""
        self.readings = readings

    def on_end(self, run: Run, reason: Reason) -> None:
        """Measure and write the summary."""
        with run.export_weights():
            if run.world.is_main and reason == "finished":
                self._measure(run)

    def _measure(self, run: Run) -> None:
        if not run.config.eval.final or not trains_encoder(run.method):
            self._write(run, {})
            return
        figures = self.readings.read(run)
        data = self.readings.images(run)
        if data.labelled:
            run.log.say(
                "final figures: linear probe and kNN, against the untrained encoder and raw pixels"
            )
        untrained = build_encoder(run.config.model, run.plan.size, seed=run.config.seed)
        spec, card = run.plan.specs[0], run.method.card
        measured = evaluate_encoder(
            run.inference_encoder().eval(),
            data,
            untrained=Normalized(untrained, spec.mean, spec.std).to(run.device).eval(),
            also=card.final,
            own=card.protocols,
            device=run.device,
        )
        for name, reason in measured.left_out.items():
            run.log.note(run.step, f"final figures without {name}: {reason}")
        summary = measured.fields()
        if card.judged_by:
            summary["judged_by"] = card.judged_by
        summary["health"] = {
            k: v for k, v in figures.items() if k not in ("epoch", "knn", "collapse")
        }
        self._write(run, summary)

    def _write(self, run: Run, figures: Mapping[str, Json]) -> None:
        run.results = dataclasses.replace(run.results, summary=figures)
        write_json(run.directory / "summary.json", {**figures, **self._facts(run)})

    def _facts(self, run: Run) -> dict[str, Json]:
        splits = self.readings.splits
        data = splits.load() if splits is not None else None
        sources = (*run.sources, *([run.test] if run.test else []))
        unread = [bad for source in sources for bad in source.bad]
        lost = run.loader.lost.files() if run.loader.lost else []
        facts: dict[str, Json] = {
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
            "wall_time_s": round(run.meter.seconds, 2),
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
