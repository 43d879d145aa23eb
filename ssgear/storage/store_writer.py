"""Writing a view store (storage/view_store.py), shard by shard, from the start or from a part.

    writer = create(root, StoreInfo(...))      # a new store, or one to finish
    for shard in writer.missing():
        with writer.claim(shard) as claim:     # None where another process is at it
            writer.write_shard(shard, samples) # appears whole, its marker last

A store that is there goes on only with the settings that it was made with; its count may grow.
Several processes may write into one store, also from several machines.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ssgear
from ssgear.errors import OUT_OF_SPACE, ConfigError, DataError, StorageError, refusing
from ssgear.storage.atomic import PREFIX, Json, json_text, staged_file, write_text
from ssgear.storage.lock import NAME as LOCK
from ssgear.storage.lock import Claim, claimed, unwritable
from ssgear.storage.shards import tar_blocks
from ssgear.storage.store_marker import (
    Failed,
    Marker,
    marker_path,
    new_digest,
    read_marker,
    software,
    write_marker,
)
from ssgear.storage.view_store import (
    ENCODINGS,
    FORMAT,
    STORE,
    UPSCALED,
    StoreInfo,
    digest_of,
    is_whole,
    read_info,
    shard_path,
)

_CLAIM = ".ssgear-claim-"
"""How the names of lock files begin; what follows is a shard's number, or `store`."""
_SHARD_OF = re.compile(re.escape(PREFIX) + r"(\d{6,})\.(?:tar|json)-")
"""Temporary files of a shard."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""Ids that WebDataset, which cuts names at their first dot, keeps whole."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item to write."""

    id: str
    """Id of the source image (`source_id`), or the number of an image that has none."""
    k: int | Literal["up"] = 0
    """Which view of it; `up` for the source itself, upscaled."""
    pixels: NDArray[np.uint8]
    """[H, W, 3]."""
    metadata: Mapping[str, Json]
    """What goes into its json beside id, k and digest: `source` and `source_blake2b`, name and
    digest of the source image, where it has one."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One item as it is stored."""

    name: str
    """`ID.K`."""
    image: bytes
    """Image file."""
    text: bytes
    """Its json."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A writer of a store; there may be others."""

    root: Path
    """Its directory."""
    info: StoreInfo
    """Its settings, with as many views as anybody has asked for."""

    def missing(self) -> list[int]:
        """Return the shards that are not there, not whole, or shorter than they are to be."""
        return [shard for shard in range(self.info.num_shards) if not self.is_whole(shard)]

    def is_whole(self, shard: int) -> bool:
        """Whether a shard stands for all views that it is to hold; its bytes are not looked at."""
        planned = len(self.info.items_of(shard))
        with suppress(DataError):
            marker = read_marker(self.root, shard)
            return marker is not None and marker.tasks >= planned and is_whole(self.root, marker)
        return False

    def claim(self, shard: int, *, wait: bool = False) -> AbstractContextManager[Claim | None]:
        """Keep a shard to this process for as long as the block lasts; None: another has it."""
        return claimed(self.root / f"{_CLAIM}{shard:06d}", wait=wait)

    def write_shard(self, shard: int, entries: Iterable[Sample | Encoded | Failed]) -> Marker:
        """Write what came of all planned views of a shard, and sources beside them, upscaled.

        The entries are taken one by one, none is kept.
        """
        items: list[tuple[str, int, int]] = []
        failed: list[Failed] = []
        path, digest, length = shard_path(self.root, shard), new_digest(), 0
        with staged_file(path) as file:
            for block in tar_blocks(self._members(entries, items, failed)):
                file.write(block)
                digest.update(block)
                length += len(block)
            upscaled = sum(name.endswith(f".{UPSCALED}") for name, _, _ in items)
            tasks = len(items) - upscaled + len(failed)
            if tasks != len(self.info.items_of(shard)):
                raise ValueError(f"shard {shard}: {tasks} views are not all of it")
            file.flush()
            os.fsync(file.fileno())  # a disk that is full costs the old shard nothing
            # a reader never sees the new shard beside what was said of an old one
            marker_path(self.root, shard).unlink(missing_ok=True)
        marker = Marker(
            shard=shard,
            tasks=tasks,
            bytes=length,
            blake2b=digest.hexdigest(),
            items=tuple(items),
            failed=tuple(failed),
            software=software(),
        )
        write_marker(self.root, marker)
        return marker

    def _members(
        self,
        entries: Iterable[Sample | Encoded | Failed],
        items: list[tuple[str, int, int]],
        failed: list[Failed],
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the files of a shard, and note what they are."""
        for entry in entries:
            if isinstance(entry, Failed):
                failed.append(entry)
                continue
            made = encoded(entry, self.info.encoding) if isinstance(entry, Sample) else entry
            items.append((made.name, len(made.image), len(made.text)))
            yield f"{made.name}.{self.info.encoding}", made.image
            yield f"{made.name}.json", made.text


def create(root: Path, info: StoreInfo) -> Writer:
    """Make a store, or go on with the one that is there.

    Raises:
        ConfigError: the directory holds something else, or a store made with other settings.
        DataError: the store that is there is damaged.
        StorageError: nothing can be written there.
    """
    _refuse_foreign(root)
    with refusing(OSError, lambda error: unless_full(error, unwritable(root, error))):
        root.mkdir(parents=True, exist_ok=True)
        with claimed(root / f"{_CLAIM}store", wait=True) as mine:
            if (root / STORE).exists():
                info = continued(root, info)
            known = {"format": FORMAT, "ssgear": ssgear.__version__, **asdict(info)}
            _write_changed(root / STORE, known)
            remove_stale(root, whole=mine is not None and mine.exclusive)
    return Writer(root=root, info=info)


def unless_full(error: OSError, text: str) -> StorageError | None:
    """Return the error to raise in place of the system's, or None where a disk is full."""
    return None if error.errno in OUT_OF_SPACE else StorageError(text)


def remove_stale(root: Path, *, whole: bool = False) -> None:
    """Remove what killed writers left of shards that nobody is at; `whole`: and all the rest.

    On a file system without locks nobody can tell, and it stays.
    """
    there = [path for path in root.iterdir() if path.name.startswith((PREFIX, _CLAIM))]
    for path in there:
        match = _SHARD_OF.match(path.name)
        if match or path.name.startswith(_CLAIM):
            number = match[1] if match else path.name.removeprefix(_CLAIM)
            with claimed(root / f"{_CLAIM}{number}") as claim:
                if match and claim is not None and claim.exclusive:
                    path.unlink(missing_ok=True)
        elif whole:
            path.unlink(missing_ok=True)


def encoded(sample: Sample, encoding: str) -> Encoded:
    """Return the files of an item."""
    if not _ID.fullmatch(sample.id):
        raise ValueError(f"id {sample.id!r}: letters, digits, - and _ only, at most 80")
    image = encode(sample.pixels, encoding)
    fields = {"id": sample.id, "k": sample.k, **sample.metadata, "blake2b": digest_of(image)}
    if sample.k == UPSCALED:
        fields["size"] = list(sample.pixels.shape[:2])
    text = json.dumps(fields, allow_nan=False).encode()
    return Encoded(name=f"{sample.id}.{sample.k}", image=image, text=text)


def encode(pixels: NDArray[np.uint8], encoding: str) -> bytes:
    """Return the image file of pixels [H, W, 3]."""
    file = io.BytesIO()
    kind, options = ENCODINGS[encoding]
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ConfigError(f"--output: {root} is a file; name a directory")
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    ours = (LOCK, PREFIX, _CLAIM)
    foreign = [name for name in there if not name.startswith(ours)]
    if foreign and STORE not in there:
        raise ConfigError(
            f"--output: {root} holds other files ({foreign[0]}) and no {STORE}; name a new one"
        )


def _write_changed(path: Path, known: Mapping[str, Json]) -> None:
    """Write store.json where it says something new: other writers may be reading it."""
    text = json_text(known)
    if not path.exists() or path.read_text("utf-8") != text:
        write_text(path, text)


def continued(root: Path, info: StoreInfo) -> StoreInfo:
    """Return the settings of the store that is there, with the larger count.

    Raises:
        ConfigError: it was made with other settings.
    """
    there = read_info(root, f"--output: {root}")
    changed = differences(there, info)
    if changed:
        raise ConfigError(
            f"--output: {root} was made with other settings: {'; '.join(changed)}; use those, or "
            "name another directory"
        )
    return replace(info, count=max(there.count, info.count))


def differences(old: StoreInfo, new: StoreInfo) -> list[str]:
    """Name the settings that differ, each with both values.

    How many views are planned may, and where the images lie.
    """
    # what JSON makes of both: tuples are lists there
    olds, news = (_leaves(json.loads(json.dumps(asdict(info)))) for info in (old, new))
    return [
        f"{key.removeprefix('settings.')} ({olds.get(key)}, now {news.get(key)})"
        for key in {**olds, **news}
        if key != "count" and not key.startswith("images") and olds.get(key) != news.get(key)
    ]


def _leaves(fields: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, value in fields.items():
        key = prefix + name
        found |= _leaves(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found
