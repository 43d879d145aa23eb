"""WebDataset tar shards: samples of several files that share a key.

A member's key is its name up to the first dot of its last part, what follows is the field:
`dir/0001.left.jpg` is field `left.jpg` of key `dir/0001`. The image of a key is its plain one
(`0001.jpg`; of several the first); where it has none, each of its images (`0001.left.jpg`,
`0001.right.jpg`) is one of the set. Its label is the text of `0001.cls`, mostly a number, or what
`0001.json` has under `label`, `cls` or `class`; a shard whose first JSON has none of them is not
searched further. Shards with `train` in their name or folder and those with `test`, `val`,
`validation` or `valid` are the splits; else a share of every class is held out.

Every shard is read once, headers and labels only; where its images are is remembered until its size
or time changes (storage/cache.py). Images are then read by their places, in any order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssgear.data.sources.decode import is_image_name
from ssgear.data.sources.layout import TEST_FOLDERS, Layout, Part
from ssgear.data.sources.listing import Listing
from ssgear.data.sources.names import Names
from ssgear.data.sources.progress import progress
from ssgear.data.sources.shard_paths import shard_paths
from ssgear.data.sources.stamps import mixed
from ssgear.data.sources.tar import Span, tar_members
from ssgear.errors import DataError
from ssgear.storage import cache
from ssgear.storage.json_files import parse_object

WORTH = 256
"""Images of a shard from which on their places are remembered."""

_LABELS = ("label", "cls", "class")
_LONGEST = 256
"""Bytes of the longest text that can be a label."""


def list_shards(path: Path, option: str, *, remember: bool = True) -> Listing:
    """List the images of a set of shards; the option names who asked for it.

    Raises:
        DataError: there are no shards, one of them is cut or damaged, or no sample has an image.
    """
    paths = shard_paths(path, option)
    root = Path(os.path.commonpath([shard.parent for shard in paths]))
    number: dict[str, int] = {}
    parts: list[cache.Arrays] = []
    with progress("Listing", len(paths)) as advance:
        for shard in paths:
            classes, arrays = _indexed(shard, remember)
            # the last place stands for images without a label
            places = [number.setdefault(key, len(number)) for key in classes]
            name = Names([os.path.relpath(shard, root)]).digests().astype(np.int64)
            codes = np.array([*places, -1], dtype=np.int32)[arrays["codes"]]
            digests = mixed(arrays["digests"], name)
            parts.append({**arrays, "codes": codes, "digests": digests})
            advance(1)
    counts = [len(arrays["codes"]) for arrays in parts]
    if not sum(counts):
        raise DataError(f"{option}: {path}: none of {len(paths)} shards holds an image")
    return Listing(
        root=root,
        images=Names.joined([Names.of_arrays("images", arrays) for arrays in parts]),
        others=Names(),
        digests=np.concatenate([arrays["digests"] for arrays in parts]),
        spans=np.concatenate([arrays["spans"] for arrays in parts]),
        paths=tuple(str(shard) for shard in paths),
        archives=np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        classes=tuple(number),
        codes=np.concatenate([arrays["codes"] for arrays in parts]),
    )


def shard_layout(listing: Listing) -> Layout:
    """Return the splits that the shards' names tell."""
    words = [
        set(re.split(r"[^a-z]+", os.path.relpath(path, listing.root).lower()))
        for path in listing.paths
    ]
    tests = [name for name in TEST_FOLDERS if any(name in each for each in words)]
    if not tests or not any("train" in each for each in words):
        return Layout(train=shard_part(listing), test=None)
    train, test = (
        shard_part(listing, np.array([name in each for each in words], dtype=bool))
        for name in ("train", tests[0])
    )
    unused = len(listing.images) - len(train.rows) - len(test.rows)
    if unused:
        note = f"{unused} images in shards neither of train nor of {tests[0]} are not used"
        train = replace(train, notes=(*train.notes, note))
    return Layout(train=train, test=test)


def shard_part(listing: Listing, chosen: NDArray[np.bool_] | None = None) -> Part:
    """Return the images of all shards or of some; labels where every image has one."""
    assert listing.archives is not None and listing.codes is not None
    if chosen is None:
        rows = np.arange(len(listing.images))
    else:
        rows = np.flatnonzero(chosen[listing.archives])
    found, codes = np.unique(listing.codes[rows], return_inverse=True)
    if not len(found) or found[0] >= 0:
        return Part(rows=rows, keys=tuple(listing.classes[code] for code in found), codes=codes)
    without = int((codes == 0).sum())
    note = (
        f"{without} of {len(rows)} images have no .cls and no label in a .json: no labels are used"
    )
    return Part(rows=rows, notes=(note,) if without < len(rows) else ())


def _indexed(path: Path, remember: bool) -> tuple[list[str], cache.Arrays]:
    """Return the classes of a shard, and the names, places and classes of its images."""
    stamp = cache.stamp_of(path) if remember else None
    entry = cache.load("shard", path) if stamp else None
    if entry is not None and entry.info["stamp"] == stamp:
        return entry.info["classes"], dict(entry.arrays)
    classes, arrays = _index(path)
    if stamp and len(arrays["codes"]) >= WORTH:
        cache.save("shard", path, {"stamp": stamp, "classes": classes}, arrays)
    return classes, arrays


def _index(path: Path) -> tuple[list[str], cache.Arrays]:
    names: list[str] = []
    spans: list[Span] = []
    codes: list[int] = []
    number: dict[str, int] = {}
    for images, label in _samples(path):
        code = -1 if label is None else number.setdefault(label, len(number))
        names += images
        spans += images.values()
        codes += [code] * len(images)
    found = Names(names)
    return list(number), {
        **found.arrays("images"),
        "digests": found.digests(),
        "spans": np.array(spans, dtype=np.int64).reshape(-1, 2),
        "codes": np.array(codes, dtype=np.int32),
    }


def _samples(path: Path) -> Iterator[tuple[dict[str, Span], str | None]]:
    """Yield images and label of every key of a shard that has images."""
    keys: dict[str, dict[str, tuple[str, Span]]] = {}
    for name, span in tar_members(path).items():
        folder, _, last = name.rpartition("/")
        if not name.startswith(".") and "/." not in name:
            stem, _, field = last.partition(".")
            keys.setdefault(f"{folder}/{stem}", {})[field.lower()] = (name, span)
    search_json = True
    with open(path, "rb") as file:
        for fields in keys.values():
            images = _images(fields)
            label = None
            if images and "cls" in fields:
                label = _text(file.fileno(), fields["cls"][1])
            elif images and "json" in fields and search_json:
                label = _json_label(file.fileno(), fields["json"][1])
                search_json = label is not None
            if images:
                yield images, label


def _images(fields: Mapping[str, tuple[str, Span]]) -> dict[str, Span]:
    """Return the images of a key: the plain one, else all."""
    images = [field for field in fields if is_image_name(f".{field}")]
    plain = [field for field in images if "." not in field]
    return dict(fields[field] for field in plain[:1] or images)


def _text(descriptor: int, span: Span) -> str | None:
    """Return the text of a `.cls`, or None where it can be no label."""
    offset, length = span
    if length > _LONGEST:
        return None
    with suppress(UnicodeDecodeError):
        return os.pread(descriptor, length, offset).decode().strip() or None
    return None


def _json_label(descriptor: int, span: Span) -> str | None:
    """Return the label in a `.json`, or None."""
    offset, length = span
    with suppress(ValueError):
        content = parse_object(os.pread(descriptor, length, offset))
        for value in map(content.get, _LABELS):
            if isinstance(value, int | str) and not isinstance(value, bool):
                return str(value).strip() or None
    return None
