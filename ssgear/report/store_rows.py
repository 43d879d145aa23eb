"""What a look at a view store shows: some sources, spread over it, and their views.

    seen = look(root)               # or look(root, source): images of the set that it was made of

A store that is not finished can be looked at too. Sources come from `source`, else from the
upscaled originals that the store keeps, else there are none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ssgear.data.sources.decode import BadImageError, open_rgb
from ssgear.data.sources.names import printable
from ssgear.data.sources.source import Source
from ssgear.errors import DataError, first_line
from ssgear.report.contents import Pixels
from ssgear.storage.atomic import Json
from ssgear.storage.shards import read_span
from ssgear.storage.store_marker import Failed
from ssgear.storage.view_store import Listed, Shard, StoreInfo, listed, read_info, source_id

SOURCES = 24
"""Sources that are shown."""
ALONE = 60
"""Images that are shown of a store that has no sources."""
VIEWS = 8
"""Views of a source that are shown."""
SIDE = 256
"""Largest side of an image that is shown."""
_UPSCALED = -1


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A view, or why there is none."""

    k: int
    """Which view of its source."""
    state: Literal["there", "failed", "missing"]
    """Missing: not made yet."""
    pixels: Pixels | None = None
    """[H, W, 3]."""
    seed: int | None = None
    """What it was drawn from."""
    text: str = ""
    """Its prompt, its class, or why it failed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A source and its views."""

    name: str
    """Of the source, or number of an image that has none."""
    source: Pixels | None
    """[H, W, 3]; None where it is not at hand."""
    views: tuple[Shown, ...]
    """By k."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A look at a store."""

    info: StoreInfo
    """Its settings."""
    rows: tuple[Row, ...]
    """Some of it."""
    num_views: int
    """Views of each source that are planned."""
    there: int
    """Views that are in it."""
    upscaled: int
    """Upscaled originals beside them."""
    failed: Mapping[str, int]
    """Reasons, and how often each."""
    missing: int
    """Views that are not made yet."""


def look(root: Path, source: Source | None = None) -> Seen:
    """Read some of a store.

    Raises:
        DataError: there is no store, nothing in it, or `source` is another set than it was made of.
    """
    info = read_info(root, f"--preview: {root}")
    held = [listed(root, info, number) for number in range(info.num_shards)]
    failed = [each for part in held for each in part.failed]
    images = info.settings.get("images")
    ids = _some(held, failed, ALONE if images is None else SOURCES)
    if not len(ids):
        raise DataError(f"--preview: {root} holds no views yet")
    found = {name: _Found() for name in ids.tolist()}
    for part in held:
        _read(part.shard, info, ids, found)
    for each in failed:
        if each.id.encode() in found and each.k < VIEWS:
            views = found[each.id.encode()].views
            views[each.k] = Shown(k=each.k, state="failed", seed=each.seed, text=each.reason)
    if source is not None:
        _from(source, found)
    num_views = 1 if images is None else max(1, info.count // images)
    there = sum(int((part.shard.ks != _UPSCALED).sum()) for part in held)
    return Seen(
        info=info,
        rows=tuple(_row(name, each, min(num_views, VIEWS)) for name, each in found.items()),
        num_views=num_views,
        there=there,
        upscaled=sum(len(part.shard.ks) for part in held) - there,
        failed=dict(Counter(each.reason for each in failed).most_common()),
        missing=info.count - sum(part.tasks for part in held),
    )


@dataclass
class _Found:
    """What has been found of a source."""

    name: str = ""
    digest: str | None = None
    source: Pixels | None = None
    views: dict[int, Shown] = field(default_factory=dict)


def _some(held: list[Listed], failed: list[Failed], count: int) -> NDArray[np.bytes_]:
    """Return ids of some sources in the order of the store, evenly spread."""
    tried = np.array([each.id.encode() for each in failed], dtype=np.bytes_)
    ids = np.concatenate([*(part.shard.ids for part in held), tried])
    _, first = np.unique(ids, return_index=True)
    ordered = ids[np.sort(first)]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    chosen: NDArray[np.bytes_] = ordered[places]
    return chosen


def _read(
    shard: Shard, info: StoreInfo, ids: NDArray[np.bytes_], found: dict[bytes, _Found]
) -> None:
    """Read what a shard has of these sources."""
    for item in (np.isin(shard.ids, ids) & (shard.ks < VIEWS)).nonzero()[0]:
        about, k = found[bytes(shard.ids[item])], int(shard.ks[item])
        offset, length, *text = (int(value) for value in shard.spans[item])
        try:
            fields = json.loads(read_span(shard.path, *text))
            pixels = _small(open_rgb(read_span(shard.path, offset, length)))
        except (BadImageError, DataError, ValueError) as error:
            reason = f"cannot be read: {first_line(error)}"
            about.views[k] = Shown(k=k, state="failed", text=reason)
            continue
        about.name = str(fields.get("source") or about.name)
        about.digest = fields.get("source_blake2b")
        if k == _UPSCALED:
            about.source = pixels
        else:
            seed, said = fields.get("seed"), _text(fields, info.settings)
            about.views[k] = Shown(k=k, state="there", pixels=pixels, seed=seed, text=said)


def _text(fields: Mapping[str, Json], settings: Mapping[str, Json]) -> str:
    """Return what a view shows, in words: its prompt, or the name of its class."""
    label, classes = fields.get("label"), settings.get("classes")
    if fields.get("prompt"):
        return str(fields["prompt"])
    if label is None:
        return ""
    if isinstance(label, int) and isinstance(classes, list) and 0 <= label < len(classes):
        return str(classes[label])
    return f"class {label}"


def _from(source: Source, found: dict[bytes, _Found]) -> None:
    """Take the sources from their own data set."""
    known = 0
    for index, name in _named(source):
        about = found.get(name)
        if about is None:
            continue
        try:
            if about.digest not in (None, source.digest(index)):
                raise DataError(
                    f"--data.path: {source.where(index)} is not the image that the views in the "
                    "store were made of; name that set, or leave --data.* away"
                )
            about.source = _small(source.image(index))
        except BadImageError:
            about.source = None
        about.name = about.name or printable(source.own_name(index))
        known += 1
    if not known:
        raise DataError(
            "--data.path: none of these images is one that the views in the store were made of; "
            "name that set, or leave --data.* away"
        )


def _named(source: Source) -> Iterator[tuple[int, bytes]]:
    for index in range(len(source)):
        yield index, source_id(source.own_name(index)).encode()


def _small(image: Image.Image) -> Pixels:
    """Return the middle square of an image, no larger than it is shown."""
    side = min(*image.size, SIDE)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS))


def _row(name: bytes, about: _Found, num_views: int) -> Row:
    """Lay out what was found of a source; views that nobody has made are named as such."""
    views = {k: Shown(k=k, state="missing") for k in range(num_views)} | about.views
    views.pop(_UPSCALED, None)
    return Row(
        name=about.name or name.decode(),
        source=about.source,
        views=tuple(views[k] for k in sorted(views)),
    )
