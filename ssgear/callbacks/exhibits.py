"""What protocols found, as the contents of a page: confusions, retrieval, label curves, pictures.

`ssgear.evaluate` and the report of a run lay out the same sections; rooms that do not know each
other (evaluation, report) are joined here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ssgear.evaluation.images import EvalData
from ssgear.evaluation.results import Exhibit, Outcome
from ssgear.report.contents import (
    Confusion,
    Contents,
    Invariance,
    LabelCurve,
    LabelPoint,
    Pictures,
    Retrieval,
    Similarity,
)

_CURVES = {
    "linear_probe": "linear probe",
    "linear_probe_sgd": "linear probe (SGD)",
    "mlp_probe": "MLP probe",
    "knn": "kNN",
    "finetune": "fine-tuning",
}
"""Figures that are measured over shares of the labels, and what is said of them."""


def with_outcome(
    contents: Contents,
    outcome: Outcome,
    data: EvalData,
    baselines: Mapping[str, Outcome] | None = None,
) -> Contents:
    """Return contents with everything that an outcome has to show.

    Args:
        contents: What is there already.
        outcome: Of one or several protocols.
        data: The images that they were measured on.
        baselines: The same figures of others, by name.
    """
    by_kind: dict[str, list[Exhibit]] = {}
    for exhibit in outcome.exhibits:
        by_kind.setdefault(exhibit.kind, []).append(exhibit)
    invariances = [_invariance(exhibit) for exhibit in by_kind.get("invariance", ())]
    retrievals = [_retrieval(exhibit, outcome, data) for exhibit in by_kind.get("retrieval", ())]
    return dataclasses.replace(
        contents,
        confusions=[_confusion(exhibit) for exhibit in by_kind.get("confusion", ())],
        retrieval=retrievals[-1] if retrievals else None,
        label_curves=_curves(outcome, baselines or {}),
        similarities=[_similarity(exhibit) for exhibit in by_kind.get("similarity", ())],
        invariance=invariances[-1] if invariances else None,
        pictures=[_pictures(exhibit) for exhibit in by_kind.get("pictures", ())],
    )


def _fields(exhibit: Exhibit) -> Mapping[str, Any]:
    return exhibit.fields


def _confusion(exhibit: Exhibit) -> Confusion:
    return Confusion(
        matrix=exhibit.tensors["matrix"].numpy(),
        classes=_fields(exhibit)["classes"],
        title=exhibit.title,
    )


def _similarity(exhibit: Exhibit) -> Similarity:
    fields = _fields(exhibit)
    return Similarity(
        matrix=exhibit.tensors["matrix"].double().numpy(),
        rows=fields["rows"],
        columns=fields["columns"],
        title=exhibit.title,
        measure=fields["measure"],
        is_distance="distance" in fields["measure"],
    )


def _invariance(exhibit: Exhibit) -> Invariance:
    curves = {
        name: [(float(x), float(y)) for x, y in points] for name, points in _fields(exhibit).items()
    }
    return Invariance(curves=curves)


def _pictures(exhibit: Exhibit) -> Pictures:
    rows = exhibit.tensors["images"].numpy()
    return Pictures(
        title=exhibit.title,
        rows=[list(row) for row in rows],
        columns=_fields(exhibit).get("columns", ()),
    )


def _retrieval(exhibit: Exhibit, outcome: Outcome, data: EvalData) -> Retrieval:
    queries, neighbours = exhibit.tensors["queries"], exhibit.tensors["neighbours"]
    measure = outcome.measures["map"]
    assert measure.per_image is not None and data.test_labels is not None
    labels = data.test_labels
    kinds: list[Literal["best", "typical", "worst"]] = _fields(exhibit)["kinds"]
    nearby = _images(data, neighbours.flatten())
    return Retrieval(
        queries=_images(data, queries),
        neighbours=nearby.reshape(*neighbours.shape, *nearby.shape[1:]),
        similarities=exhibit.tensors["similarities"].tolist(),
        query_labels=_names(data, labels[queries]),
        neighbour_labels=[_names(data, row) for row in labels[neighbours]],
        kinds=kinds,
        average_precisions=measure.per_image[queries].tolist(),
        mean_average_precision=measure.value,
        num_queries=int(measure.num_test or len(labels)),
        interval=measure.interval,
        precision_at=_at(outcome, "precision"),
        recall_at=_at(outcome, "recall"),
    )


def _at(outcome: Outcome, name: str) -> dict[int, float]:
    pattern = re.compile(rf"{name}_at_(\d+)")
    matches = ((pattern.fullmatch(key), m.value) for key, m in outcome.measures.items())
    return {int(match[1]): value for match, value in matches if match}


def _images(data: EvalData, rows: Tensor) -> Any:
    """Return test images [n, H, W, 3]; one that several rows name is read once."""
    unique, places = torch.unique(rows, return_inverse=True)
    return data.test_images[unique][places].permute(0, 2, 3, 1).contiguous().numpy()


def _names(data: EvalData, labels: Tensor) -> list[str]:
    classes: Sequence[str] = data.classes or ()
    return [classes[label] if label < len(classes) else str(label) for label in labels.tolist()]


def _curves(outcome: Outcome, baselines: Mapping[str, Outcome]) -> list[LabelCurve]:
    """Return a curve for each figure that was measured for more than one share of the labels."""
    curves = []
    for figure, title in _CURVES.items():
        points = _points(outcome, figure)
        if len(points) < 2:
            continue
        others = {name: _points(other, figure) for name, other in baselines.items()}
        known = {name: part for name, part in others.items() if len(part) > 1}
        curves.append(LabelCurve(points=points, title=title, baselines=known))
    return curves


def _points(outcome: Outcome, figure: str) -> list[LabelPoint]:
    points = []
    for name, measure in outcome.measures.items():
        # not those of other images, linear_probe@0.1[digits]
        match = re.fullmatch(rf"{figure}(?:@([0-9.e-]+))?", name)
        if match is not None and measure.num_train is not None:
            points.append(
                LabelPoint(
                    share=float(match[1] or 1),
                    num_labels=measure.num_train,
                    accuracy=measure.value,
                    interval=measure.interval,
                )
            )
    return sorted(points, key=lambda point: point.share)
