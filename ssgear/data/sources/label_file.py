"""`--data.labels`: a CSV file of `file,label` lines that says what is on each image.

File names are relative to --data.path, as its files have them (in a tar, the folder that all of its
files share may be left out). A first line whose file is no image name is a header.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ssgear.data.sources.decode import is_image_name
from ssgear.data.sources.listing import Listing
from ssgear.errors import DataError, refusing, unreadable

_SHOWN = 3
"""Names that an error gives."""


def read_labels(path: Path, listing: Listing) -> dict[str, str]:
    """Return the label of each image that the file names, and refuse names that are not there."""
    given = _read(path.expanduser())
    known = set(listing.images)
    prefix = listing.shared
    labels = {_member(name, known, prefix): label for name, label in given.items()}
    strangers = [name for name in labels if name not in known]
    if strangers:
        raise DataError(
            f"--data.labels: {path} names {len(strangers)} files that are not images of "
            f"{listing.root}, {', '.join(strangers[:_SHOWN])} first; names are relative to it"
        )
    return labels


def _member(name: str, known: set[str], prefix: str) -> str:
    return f"{prefix}{name}" if name not in known and f"{prefix}{name}" in known else name


def _read(path: Path) -> Mapping[str, str]:
    with (
        refusing((OSError, csv.Error), unreadable(f"--data.labels: {path}")),
        open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        lines = [row for row in csv.reader(file, strict=True) if row]
    if lines and not is_image_name(lines[0][0].strip()):
        lines = lines[1:]
    labels: dict[str, str] = {}
    for row in lines:
        name, label = _fields(path, row)
        if labels.setdefault(name, label) != label:
            raise DataError(
                f"--data.labels: {path} gives {name} two labels, {labels[name]!r} and {label!r}"
            )
    if not labels:
        raise DataError(f"--data.labels: {path} has no line of the form file,label")
    return labels


def _fields(path: Path, row: list[str]) -> tuple[str, str]:
    fields = [field.strip() for field in row]
    if len(fields) != 2 or not all(fields):
        raise DataError(
            f"--data.labels: {path} has the line {','.join(row)!r}; write lines of file,label"
        )
    return fields[0].removeprefix("./"), fields[1]
