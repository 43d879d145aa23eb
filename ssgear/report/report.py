"""Write a run's `report.html`: one file with everything in it, that asks the network for nothing.

`write_report(run_dir, contents)` reads what the run left in its directory, takes images and
coordinates from `contents` (contents.py) and fills template.html, where every value is escaped. The
page is whole without JavaScript; with it, charts and map answer to a pointer.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssgear.methods.base import Card
from ssgear.report import pictures
from ssgear.report.charts import as_number, duration, number_text
from ssgear.report.contents import Contents
from ssgear.report.figures import figures
from ssgear.report.measures import measures
from ssgear.report.page import render
from ssgear.report.plane import planes
from ssgear.report.reading import RunFiles, read_run
from ssgear.report.sections.measured import measured_sections
from ssgear.report.sections.time import time_parts
from ssgear.report.verdict import judge
from ssgear.storage.atomic import Json, write_text


def write_report(run_dir: Path, contents: Contents) -> Path:
    """Write `run_dir`/report.html and return its path."""
    run = read_run(Path(run_dir))
    page = render(
        "template.html",
        head=_head(run, contents.card),
        card=contents.card,
        figures=figures(run),
        measures=measures(run, contents.card.figures),
        tiles=_tiles(run),
        charts=pictures.curves(run),
        verdict=judge(run, contents.card),
        views=pictures.views(contents.views),
        samples=pictures.samples(contents.samples),
        **measured_sections(contents),
        map=pictures.feature_map(contents.map),
        maps=contents.maps,
        planes=planes(contents.maps),
        times=time_parts(run.facts.get("time_s")),
        settings=_settings(run.config),
        usage=_usage(run),
        versions=_versions(run),
        bad_files=_bad_files(run),
        notes=run.notes,
    )
    path = Path(run_dir) / "report.html"
    write_text(path, page)
    return path


def _head(run: RunFiles, card: Card) -> dict[str, str | bool | list[tuple[str, str]]]:
    """What was run, as the words of one sentence and a few facts beside it."""
    method = str(run.option("method_name", "an unnamed method"))
    done, planned = run.furthest("epoch"), as_number(run.option("optim.epochs"))
    count = run.summary_number("num_train")
    seen = run.furthest("images_seen")
    source, path = run.option("data.source", "auto"), run.option("data.path")
    if source in ("auto", "folder", "tar") and path:
        source = Path(str(path)).name
    facts = [
        ("Device", run.facts.get("device")),
        ("Wall time", duration(run.summary_number("wall_time_s"))),
        ("Images seen", f"{seen:,.0f}" if math.isfinite(seen) else None),
        ("Batch", run.option("optim.batch_size")),
        ("Seed", run.option("seed")),
        ("Date", f"{run.written:%d %B %Y, %H:%M}".lstrip("0")),
    ]
    if run.facts.get("source"):
        source = run.facts["source"]
    elif source == "auto":
        source = "the embedded images"
    return {
        "name": run.directory.resolve().name,
        "method": card.title or method,
        "encoder": str(run.option("model.name", "an unnamed encoder")),
        "source": str(source),
        "num_train": f"{count:,.0f}" if math.isfinite(count) else "",
        "labelled": bool(run.text_list("classes")) and not card.sees_labels,
        "epochs": number_text(done, 3) if math.isfinite(done) else "",
        "planned": number_text(planned) if math.isfinite(planned) else "",
        "finished": run.finished,
        "facts": [(name, str(value)) for name, value in facts if value not in (None, "")],
    }


def _tiles(run: RunFiles) -> list[tuple[str, str, str]]:
    """Figures that need no labels."""
    wanted = (
        ("loss", "Loss", "at the last logged step"),
        (
            "effective_rank",
            "Effective rank",
            "directions that the features fill; 1 would be collapse",
        ),
        ("alignment", "Alignment", "distance between views of one image; lower is closer"),
        ("uniformity", "Uniformity", "evenness over the sphere; lower is more even"),
    )
    values = [(title, run.last(key), note) for key, title, note in wanted]
    return [
        (title, number_text(v, 3).replace("-", "−"), note)
        for title, v, note in values
        if math.isfinite(v)
    ]


def _settings(config: Mapping[str, Json]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every setting by section, under the name of its option."""
    top = [(key, value) for key, value in config.items() if not isinstance(value, Mapping)]
    groups = [("run", [(_option(key), _value(value)) for key, value in top])]
    for section, values in config.items():
        if isinstance(values, Mapping):
            rows = [(_option(f"{section}.{key}"), _value(value)) for key, value in _flat(values)]
            groups.append((str(section), rows))
    return [(name, rows) for name, rows in groups if rows]


def _flat(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _option(dotted: str) -> str:
    return "--method" if dotted == "method_name" else "--" + dotted.replace("_", "-")


def _value(value: Json) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_value(item) for item in value)
    return "not set" if value is None else str(value)


def _usage(run: RunFiles) -> dict[str, str | bool]:
    """Commands with the run's path as seen from where it was started, or its bare name."""
    directory, here = run.directory.resolve(), Path.cwd()
    shown = str(directory.relative_to(here)) if directory.is_relative_to(here) else directory.name
    return {
        "shown": shown,
        "python_path": json.dumps(shown, ensure_ascii=False),
        "shell_path": shlex.quote(shown),
        "has_encoder": (run.directory / "encoder.safetensors").is_file(),
        "has_checkpoint": (run.directory / "checkpoints").is_dir(),
    }


def _versions(run: RunFiles) -> list[tuple[str, str]]:
    versions = run.facts.get("versions")
    return [(str(k), str(v)) for k, v in versions.items()] if isinstance(versions, Mapping) else []


def _bad_files(run: RunFiles) -> list[tuple[str, str]]:
    """Files that could not be read, with the reason where one is given."""
    entries = run.facts.get("bad_files")
    return [_bad_file(entry) for entry in entries] if isinstance(entries, list) else []


def _bad_file(entry: Json) -> tuple[str, str]:
    if isinstance(entry, Mapping):
        entry = list(entry.values())
    fields = [str(value) for value in entry] if isinstance(entry, list) else [str(entry)]
    return fields[0] if fields else "", ": ".join(fields[1:])
