"""Sections of what protocols measured, which a run's report and an evaluation's page both have."""

from __future__ import annotations

from ssgear.report.contents import Contents
from ssgear.report.sections import curves, heat_map, neighbours
from ssgear.report.sections.pictures import pictures


def measured_sections(contents: Contents) -> dict[str, object]:
    """Return the values of these sections by the names that their templates use."""
    return {
        "neighbours": neighbours.neighbours(contents.neighbours),
        "retrieval": neighbours.retrieval(contents.retrieval),
        "confusions": heat_map.confusions(contents.confusions),
        "label_curves": curves.label_curves(contents.label_curves),
        "invariance": curves.invariance(contents.invariance),
        "similarities": heat_map.similarities(contents.similarities),
        "pictures": pictures(contents.pictures),
    }
