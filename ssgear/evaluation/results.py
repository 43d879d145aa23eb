"""A figure with what it rests on: how many images, how sure, and right or wrong by image.

    measure = Measure(value=0.63, interval=(0.62, 0.64), num_train=50000, num_test=10000)

`write_figures` stores figures as JSON (`summary.json`, `evaluation-SOURCE.json`), and what they are
by image beside it under the same name with the ending `.safetensors`, so that two subjects can be
compared image by image later (`ssgear compare`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
from torch import Tensor

from ssgear.errors import CheckpointError, reason_of, refusing
from ssgear.storage.atomic import Json, write_bytes, write_json

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """One figure."""

    value: float
    """The figure; over several seeds their mean."""
    interval: Interval | None = None
    """95 % confidence interval over the test images, where one is known."""
    num_train: int | None = None
    """Training images that it was learned from, where it learns."""
    num_test: int | None = None
    """Test images that it was measured on."""
    values: tuple[float, ...] = ()
    """The figure of each seed, where there are several."""
    deviation: float | None = None
    """Standard deviation over seeds, where there are several."""
    per_image: Tensor | None = None
    """[num_test]: 1 right and 0 wrong, or the average precision of a query; not over seeds."""
    predicted: Tensor | None = None
    """[num_test, at most 5] int64, of the first seed: the best classes, the best first."""

    def fields(self) -> dict[str, Json]:
        """Return what a JSON file says of it beside the value."""
        fields: dict[str, Json] = {}
        if self.interval is not None:
            fields["interval"] = [*self.interval]
        if self.num_train is not None:
            fields["num_train"] = self.num_train
        if self.num_test is not None:
            fields["num_test"] = self.num_test
        if self.deviation is not None:
            fields["values"] = [*self.values]
            fields["deviation"] = self.deviation
        return fields


Measures = dict[str, Measure]
"""Figures by name."""
LABELS = "labels"
"""Name of the labels of the test images among the values by image."""


Kind = Literal["confusion", "retrieval", "similarity", "invariance", "pictures"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibit:
    """Something that a page shows beside the figures: a matrix, curves, pictures."""

    kind: Kind
    """How it is laid out, and so which fields and tensors it has."""
    title: str
    """What it shows."""
    fields: Mapping[str, Json] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a protocol returns."""

    measures: Measures = field(default_factory=dict)
    statements: Mapping[str, str] = field(default_factory=dict)
    """What a figure was computed of, by the name that the JSON file gives it."""
    notes: tuple[str, ...] = ()
    """What the user should know before relying on a figure, each in one line."""
    exhibits: tuple[Exhibit, ...] = ()

    def __or__(self, other: Outcome) -> Outcome:
        """Return both together."""
        return Outcome(
            measures={**self.measures, **other.measures},
            statements={**self.statements, **other.statements},
            notes=(*self.notes, *(note for note in other.notes if note not in self.notes)),
            exhibits=(*self.exhibits, *other.exhibits),
        )


def fields_of(measures: Mapping[str, Measure]) -> dict[str, Json]:
    """Return figures as numbers by name, and what they rest on under `details`."""
    details = {name: measure.fields() for name, measure in measures.items()}
    fields: dict[str, Json] = {name: measure.value for name, measure in measures.items()}
    return {**fields, "details": {name: entry for name, entry in details.items() if entry}}


def write_figures(
    path: Path,
    measures: Mapping[str, Measure],
    facts: Mapping[str, Json],
    *,
    test_images: str | None = None,
    test_labels: Tensor | None = None,
) -> None:
    """Write figures and facts to `path`, and per-image values beside it.

    Args:
        path: The JSON file.
        measures: Figures by name.
        facts: What else the JSON file says.
        test_images: Fingerprint of the test images, in the order of the per-image values.
        test_labels: Their labels [N], stored beside the values as `labels`.
    """
    tensors = {
        name: measure.per_image.contiguous()
        for name, measure in measures.items()
        if measure.per_image is not None
    }
    beside = per_image_path(path)
    # the values first: a JSON file never stands beside those of other images
    beside.unlink(missing_ok=True)
    if tensors and test_images is not None:
        metadata = {"test_images": test_images}
        if test_labels is not None:
            tensors[LABELS] = test_labels.contiguous()
        write_bytes(beside, safetensors.torch.save(tensors, metadata=metadata))
    write_json(path, {**fields_of(measures), **facts, "test_images": test_images})


def per_image_path(path: Path) -> Path:
    """Return the file of per-image values that belongs to a JSON file of figures."""
    return path.with_suffix(".safetensors")


def read_per_image(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the fingerprint of the test images and the per-image values of each figure.

    Among the values are the labels of the test images (`LABELS`), where they were stored.
    `path` is the JSON file; without values beside it, the fingerprint is empty.

    Raises:
        CheckpointError: the file of values is damaged.
    """
    beside = per_image_path(path)
    if not beside.is_file():
        return "", {}

    def refusal(error: Exception) -> CheckpointError:
        return CheckpointError(f"{beside}: damaged ({reason_of(error)}); evaluate the run again")

    with (
        refusing((OSError, safetensors.SafetensorError), refusal),
        safetensors.safe_open(str(beside), "pt") as file,
    ):
        names, metadata = [*file.keys()], file.metadata() or {}
        return metadata.get("test_images", ""), {name: file.get_tensor(name) for name in names}
