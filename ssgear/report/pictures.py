"""What the report shows as pictures: curves, views, neighbours and the map, for the template.

Each function returns None (or nothing) where the run has nothing to show, and bounds how much it
shows, so that the page stays a few megabytes whatever it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ssgear.report import charts, images, plots
from ssgear.report.reading import RunFiles

MAX_ROWS = 12
"""Rows of views."""
MAX_VIEWS = 8
"""Views of one image."""
MAX_QUERIES = 10
"""Test images whose neighbours are shown."""
MAX_NEIGHBOURS = 10
"""Neighbours of one image."""
MAX_TIMES = 6
"""Points in time of which synthetic images are shown."""
MAX_SAMPLES = 16
"""Synthetic images of one point in time."""
MAX_PAIRS = 12
"""Positives shown side by side."""
MAX_EXTRAS = 16
"""Charts of values that a method logs by itself."""
_KNOWN = {
    "kind",
    "step",
    "epoch",
    "images_seen",
    "loss",
    "lr",
    "images_per_second",
    "data_wait",
    "seconds_per_step",
}
"""Keys of training lines that have a chart of their own, or need none."""


def curves(run: RunFiles) -> list[charts.Chart]:
    """All curves that the log has values for, the most telling two first."""
    percent = [
        (name, 100 * run.summary_number("baselines", key, "knn"), key)
        for name, key in (("untrained", "untrained"), ("raw pixels", "pixels"))
    ]
    classes = run.text_list("classes")
    if classes:
        percent.append(("chance", 100 / len(classes), "chance"))
    rates = [charts.as_number(line.get("lr")) for line in run.train]
    peak = charts.number_text(max((rate for rate in rates if rate == rate), default=0.0), 3)
    extras = dict.fromkeys(key for line in run.train for key in line if key not in _KNOWN)
    wanted = [
        _curve(run.train, "loss", "Loss", note="training loss"),
        _curve(
            run.evals,
            "knn",
            "kNN accuracy",
            note="test images, in training",
            scale=100,
            unit=" %",
            compare=percent,
        ),
        _curve(
            run.evals,
            "effective_rank",
            "Effective rank",
            note="higher: more directions",
            from_zero=True,
        ),
        _curve(
            run.evals,
            "alignment",
            "Alignment",
            note="lower: views closer",
            from_zero=True,
        ),
        _curve(run.evals, "uniformity", "Uniformity", note="lower: more even"),
        _curve(run.train, "lr", "Learning rate", note=f"peak {peak}", from_zero=True),
        _curve(
            run.train,
            "images_per_second",
            "Images/s",
            note="while training",
            from_zero=True,
        ),
        _curve(
            run.train,
            "data_wait",
            "Waiting for data",
            note="share of the step",
            scale=100,
            unit=" %",
        ),
        *(
            _curve(run.train, key, key, note="logged by the method")
            for key in list(extras)[:MAX_EXTRAS]
        ),
    ]
    return [chart for chart in wanted if chart is not None]


def _curve(
    lines: Sequence[Mapping[str, Any]],
    key: str,
    title: str,
    *,
    note: str,
    scale: float = 1.0,
    unit: str = "",
    from_zero: bool = False,
    compare: Sequence[tuple[str, float, str]] = (),
) -> charts.Chart | None:
    present = [line for line in lines if key in line]
    if not present:
        return None
    epochs = [charts.as_number(line.get("epoch")) for line in present]
    rising = all(b > a for a, b in pairwise(epochs)) and epochs[-1] >= 2
    x_name = "epoch" if rising else "step"
    return charts.line_chart(
        title,
        epochs if rising else [charts.as_number(line.get("step")) for line in present],
        [scale * charts.as_number(line[key]) for line in present],
        note=note,
        x_name=x_name,
        unit=unit,
        from_zero=from_zero or bool(unit),
        references=compare,
    )


def views(views: Any, stored: Any = None, aim: str = "") -> dict[str, Any] | None:
    """Rows of an original and the views of it, each of any size; `stored` marks generated ones.

    `stored` is [rows, views]; `aim` says what training does with them. `shares` are the widths in
    percent of the row's widest picture, so that a smaller view is seen smaller.
    """
    if views is None or not len(views):
        return None
    rows = [list(row[: MAX_VIEWS + 1]) for row in views[:MAX_ROWS]]
    marks = np.zeros((len(rows), len(rows[0])), dtype=bool)
    if stored is not None:
        marks[:, 1:] = np.asarray(stored)[:MAX_ROWS, :MAX_VIEWS]
    widths = [[np.shape(image)[1] for image in row] for row in rows]
    return {
        "aim": aim,
        "count": len(rows[0]) - 1,
        "total": len(views[0]) - 1,
        "rows": [[images.picture(np.asarray(image)) for image in row] for row in rows],
        "shares": [[round(100 * width / max(row)) for width in row] for row in widths],
        "smaller": any(min(row) < max(row) for row in widths),
        "stored": marks.tolist(),
        "any_stored": bool(marks.any()),
    }


def samples(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Synthetic images of the same noise through time, under the real ones beside them."""
    if not found or not found.get("steps"):
        return None
    kept = list(found["steps"])
    chosen = sorted(
        set(np.linspace(0, len(kept) - 1, min(len(kept), MAX_TIMES)).round().astype(int))
    )

    def row(pixels: Any) -> list[images.Picture]:
        return [images.picture(image) for image in np.asarray(pixels, dtype=np.uint8)]

    return {
        "real": row(found["real"][:MAX_SAMPLES]),
        "paired": bool(found.get("paired")),
        "steps": [
            {"name": f"step {kept[i][0]:,}", "row": row(kept[i][1][:MAX_SAMPLES])} for i in chosen
        ],
        "frechet": [
            (str(name), charts.number_text(float(value), 3))
            for name, value in (found.get("frechet") or {}).items()
        ],
        "count": found.get("count"),
        "fid": _fid(found),
        "pairs": _pairs(found.get("pairs")),
    }


def _fid(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """FID and its protocol, which is never left out."""
    value = charts.as_number(found.get("fid"))
    if not math.isfinite(value):
        return None
    return charts.number_text(value, 4), str(found.get("fid_protocol"))


def _pairs(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Positives of which at least one is synthetic, two pictures each."""
    if not found or not len(found["images"]):
        return None
    pairs = np.asarray(found["images"], dtype=np.uint8)[:MAX_PAIRS]
    return {
        "real": found["kind"] == "real",
        "rows": [[images.picture(image) for image in pair] for pair in pairs],
    }


def neighbours(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Queries with their nearest neighbours, each marked right or wrong where classes are known."""
    if not found or not len(found["queries"]):
        return None
    rows: list[dict[str, Any]] = []
    labels, others = found.get("query_labels"), found.get("neighbour_labels")
    similarities = found.get("similarities")
    known = labels is not None and others is not None
    for i, query in enumerate(found["queries"][:MAX_QUERIES]):
        name = str(labels[i]) if labels is not None else ""
        names = [] if labels is None or others is None else [str(name) for name in others[i]]
        near = [
            {
                "picture": images.picture(image),
                "name": names[j] if known else "",
                "right": names[j] == name if known else None,
                "similarity": "" if similarities is None else f"{float(similarities[i][j]):.2f}",
            }
            for j, image in enumerate(found["neighbours"][i][:MAX_NEIGHBOURS])
        ]
        hits = sum(1 for one in near if one["right"])
        rows.append({"picture": images.picture(query), "name": name, "near": near, "hits": hits})
    total = sum(len(row["near"]) for row in rows)
    hits = sum(row["hits"] for row in rows)
    return {
        "rows": rows,
        "known": known,
        "hits": hits,
        "total": total,
        "share": percent(hits / max(1, total)),
        "measure": found.get("measure", "cosine similarity"),
    }


def feature_map(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The scatter of the test features, with a sheet of thumbnails where there are any."""
    if not found or not len(found["xy"]):
        return None
    count = len(found["xy"])
    chosen = np.linspace(0, count - 1, min(count, plots.MAX_POINTS)).round().astype(int)
    labels = found.get("labels")
    picked = None if labels is None else np.asarray(labels)[chosen]
    plot = plots.scatter(np.asarray(found["xy"])[chosen], picked, found.get("classes"))
    if plot is None:
        return None
    thumbnails = found.get("thumbnails")
    sheet = None if thumbnails is None else images.sheet(np.asarray(thumbnails)[chosen])
    return {
        "plot": plot,
        "sheet": sheet,
        "labelled": labels is not None,
        "projected": bool(found.get("projected", True)),
        "count": len(plot.points),
    }


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.1f} %"
