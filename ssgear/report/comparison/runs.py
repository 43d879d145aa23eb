"""What a comparison reads of each run: settings, figures with intervals, curves, its map."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray

from ssgear.config.files import read_object
from ssgear.errors import CheckpointError, reason_of, refusing
from ssgear.report.charts import as_number
from ssgear.report.reading import RunFiles, read_run
from ssgear.storage.atomic import Json

FACTS = {
    "num_train", "num_synthetic", "num_stored", "num_test", "num_images", "epochs", "steps",
    "images_seen", "wall_time_s", "world_size", "size", "max_images", "seed",
}  # fmt: skip
"""Numbers of a file of figures that are no figures."""
MAP_FILE = "map.safetensors"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a run."""

    value: float
    interval: tuple[float, float] | None = None
    """95 % confidence interval, where one is known."""
    num_train: int | None = None
    num_test: int | None = None


@dataclass(frozen=True, kw_only=True)
class MapPoints:
    """Features of test images on a plane."""

    xy: NDArray[np.float64]
    labels: NDArray[np.int64] | None
    classes: Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run to compare."""

    name: str
    """Differs from the names of the others."""
    files: RunFiles
    settings: Mapping[str, str]
    """By dotted name."""
    figures: Mapping[str, Figure]
    """By name; those of `evaluation-X.json` are named `X: NAME`."""
    sources: Mapping[str, Path]
    """File of figures by the prefix of their names; that of summary.json is empty."""
    test_images: Mapping[str, str]
    """Fingerprint of the test images of each file, by the same prefix; empty where unknown."""
    map: MapPoints | None


def read_compared(directories: Sequence[Path]) -> list[ComparedRun]:
    """Read runs.

    Raises:
        CheckpointError: a directory holds no run, a run is not finished, or a file is damaged.
    """
    names = distinct_names(directories)
    return [_read(path, name) for path, name in zip(directories, names, strict=True)]


def distinct_names(directories: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths, at least one folder, that differ from each other."""
    parts = [path.resolve().parts for path in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(directory: Path, name: str) -> ComparedRun:
    if not (directory / "config.json").is_file():
        reason = "no config.json" if directory.is_dir() else "no such directory"
        raise CheckpointError(f"{directory}: not a run directory ({reason})")
    files = read_run(directory)
    if files.summary is None:
        raise CheckpointError(
            f"{directory}: the run is not finished (no summary.json); continue it with: "
            f"python -m ssgear.train --resume {directory}"
        )
    sources = {"": directory / "summary.json"}
    for path in sorted(directory.glob("evaluation-*.json")):
        sources[path.stem.removeprefix("evaluation-") + ": "] = path
    contents = {prefix: read_object(path) for prefix, path in sources.items()}
    return ComparedRun(
        name=name,
        files=files,
        settings=dict(_settings(files.config)),
        figures={
            prefix + key: figure
            for prefix, content in contents.items()
            for key, figure in figures_of(content).items()
        },
        sources=sources,
        test_images={
            prefix: str(content.get("test_images") or "") for prefix, content in contents.items()
        },
        map=_map(directory / MAP_FILE),
    )


def figures_of(content: Mapping[str, object]) -> dict[str, Figure]:
    """Return the numbers of a file of figures that are figures."""
    details = content.get("details")
    details = details if isinstance(details, Mapping) else {}
    figures = {}
    for name, value in content.items():
        number = as_number(value)
        if name in FACTS or not math.isfinite(number):
            continue
        entry = details.get(name)
        entry = entry if isinstance(entry, Mapping) else {}
        figures[name] = Figure(
            value=number,
            interval=_interval(entry.get("interval")),
            num_train=_count(entry.get("num_train")),
            num_test=_count(entry.get("num_test")),
        )
    return figures


def _interval(ends: object) -> tuple[float, float] | None:
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    low, high = map(as_number, ends)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _count(value: object) -> int | None:
    number = as_number(value)
    return int(number) if math.isfinite(number) else None


def _settings(config: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, "not set" if value is None else _text(value)


def _text(value: Json) -> str:
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _map(path: Path) -> MapPoints | None:
    if not path.is_file():
        return None

    def refusal(error: Exception) -> CheckpointError:
        return CheckpointError(f"{path}: damaged ({reason_of(error)}); remove it")

    with (
        refusing((OSError, ValueError, KeyError, safetensors.SafetensorError), refusal),
        safetensors.safe_open(str(path), "np") as file,
    ):
        present = [*file.keys()]
        classes = (file.metadata() or {}).get("classes")
        return MapPoints(
            xy=file.get_tensor("xy").astype(np.float64).reshape(-1, 2),
            labels=file.get_tensor("labels").astype(np.int64) if "labels" in present else None,
            classes=_names(classes),
        )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [str(name) for name in json.loads(text)]
