"""Outcomes of protocols that were computed before, beside the features that they came from.

    memory = Memory(run / "features")
    outcome = memory.outcome(key, lambda: protocol.measure(subject))

A key is a fingerprint of all that an outcome depends on (`Subject.fingerprint`); an outcome is a
JSON file and its tensors beside it. A damaged one is computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ssgear.errors import StorageError, reason_of, refusing
from ssgear.evaluation.results import Exhibit, Measure, Outcome, per_image_path
from ssgear.storage.atomic import Json, json_text, write_files


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Outcomes by key."""

    folder: Path | None = None
    """Where they are kept; None: nowhere."""

    def outcome(self, key: str, compute: Callable[[], Outcome]) -> tuple[Outcome, bool]:
        """Return an outcome, and whether it was known.

        Raises:
            StorageError: the folder cannot be written.
        """
        if self.folder is None or not key:
            return compute(), False
        path = self.folder / f"{key}.json"
        known = read_outcome(path)
        if known is not None:
            return known, True
        outcome = compute()
        with refusing(OSError, self._unwritable):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_outcome(path, outcome)
        return outcome, False

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.folder}: cannot store figures: {reason_of(error)}; use --cache false"
        )


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write what a protocol returned as JSON, and its tensors beside it, for `read_outcome`."""
    tensors: dict[str, Tensor] = {}
    for name, measure in outcome.measures.items():
        for part in ("per_image", "predicted"):
            value: Tensor | None = getattr(measure, part)
            if value is not None:
                tensors[f"{part}/{name}"] = value
    for number, exhibit in enumerate(outcome.exhibits):
        tensors |= {f"{number}/{name}": value for name, value in exhibit.tensors.items()}
    # views of one tensor, or of a part of it, cannot be stored as they are
    tensors = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    exhibits: list[Json] = [
        {"kind": exhibit.kind, "title": exhibit.title, "fields": exhibit.fields}
        for exhibit in outcome.exhibits
    ]
    fields: dict[str, Json] = {
        "measures": {
            name: {"value": measure.value, **measure.fields()}
            for name, measure in outcome.measures.items()
        },
        "statements": dict(outcome.statements),
        "notes": [*outcome.notes],
        "exhibits": exhibits,
    }
    files = {path: json_text(fields).encode()}
    write_files({per_image_path(path): safetensors.torch.save(tensors), **files})


def read_outcome(path: Path) -> Outcome | None:
    """Return what `write_outcome` wrote; None where there is nothing, or it is damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(per_image_path(path))
        measures = {
            name: _measure(
                entry, tensors.get(f"per_image/{name}"), tensors.get(f"predicted/{name}")
            )
            for name, entry in fields["measures"].items()
        }
        exhibits = tuple(
            Exhibit(
                kind=entry["kind"],
                title=entry["title"],
                fields=entry["fields"],
                tensors={
                    name.partition("/")[2]: value
                    for name, value in tensors.items()
                    if name.startswith(f"{number}/")
                },
            )
            for number, entry in enumerate(fields["exhibits"])
        )
        return Outcome(
            measures=measures,
            statements=fields["statements"],
            notes=tuple(fields["notes"]),
            exhibits=exhibits,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError):
        return None


def _measure(
    entry: Mapping[str, Any], per_image: Tensor | None, predicted: Tensor | None
) -> Measure:
    interval = entry.get("interval")
    return Measure(
        value=float("nan") if entry["value"] is None else float(entry["value"]),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        num_train=entry.get("num_train"),
        num_test=entry.get("num_test"),
        values=tuple(entry.get("values", ())),
        deviation=entry.get("deviation"),
        per_image=per_image,
        predicted=predicted,
    )
