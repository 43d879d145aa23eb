"""Where the time of a run went: `time_s` of summary.json (engine/meter.py) as a bar and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ssgear.report.charts import as_number, duration
from ssgear.storage.atomic import Json

PARTS = {
    "data": ("Data", "steps waited for the loader: reading, decoding and augmenting"),
    "encoder": (
        "Encoder",
        "forward and backward of encoder and projector, and averaging gradients over ranks",
    ),
    "loss": ("Loss", "the loss and its gradient with respect to the embeddings"),
    "encoder_and_loss": (
        "Encoder and loss",
        "forward and backward; this method computes both in one piece",
    ),
    "generator": ("Generator and critic", "forward and backward of all phases but the encoder's"),
    "optimizer": ("Optimizer", "clipping, step, weight averages and the method's buffers"),
    "evaluation": ("Evaluation", "callbacks: readings while training, final figures, pictures"),
    "saving": ("Saving", "checkpoints"),
    "other": ("Other", "start, logging and what is between the parts"),
}
"""Titles and contents of the parts, in the order of the bar."""


class TimePart(NamedTuple):
    """A part of the time."""

    key: str
    title: str
    text: str
    time: str
    share: float
    """In percent of the whole."""


def time_parts(times: Json) -> list[TimePart]:
    """Return the parts of `time_s`; none where nothing was measured."""
    if not isinstance(times, Mapping):
        return []
    seconds = {str(key): as_number(value) for key, value in times.items()}
    known = {key: value for key, value in seconds.items() if math.isfinite(value) and value > 0}
    total = sum(known.values())
    order = [*PARTS, *(key for key in known if key not in PARTS)]
    return [
        TimePart(key, *PARTS.get(key, (key, "")), _time(known[key]), 100 * known[key] / total)
        for key in order
        if key in known
    ]


def _time(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
