"""Writing a view store (storage/view_store.py), shard by shard, from the start or from a part.

    with create(root, StoreInfo(...)) as writer:      # a new store, or one to finish
        for shard in writer.missing():
            writer.write_shard(shard, samples)        # appears whole

A store that is there goes on only with the settings that it was made with; its count may grow.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ssgear
from ssgear.errors import ConfigError, DataError
from ssgear.storage.atomic import PREFIX, remove_stale, write_bytes, write_json
from ssgear.storage.lock import NAME as LOCK
from ssgear.storage.lock import hold
from ssgear.storage.shards import tar_bytes
from ssgear.storage.view_store import (
    ENCODINGS,
    FORMAT,
    STORE,
    UPSCALED,
    StoreInfo,
    digest_of,
    list_shard,
    read_info,
    shard_path,
)

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
    metadata: Mapping[str, Any]
    """What goes into its json beside id, k and digest: `source` and `source_blake2b`, name and
    digest of the source image, where it has one."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """The only writer of a store."""

    root: Path
    """Its directory."""
    info: StoreInfo
    """Its settings, with as many items as anybody has asked for."""

    def missing(self) -> list[int]:
        """Return the shards that are not there, not whole, or shorter than they are to be."""
        return [shard for shard in range(self.info.num_shards) if not self._is_whole(shard)]

    def write_shard(self, shard: int, samples: Iterable[Sample]) -> None:
        """Write all items of a shard; it appears under its name when it is complete."""
        members = [file for sample in samples for file in self._files(sample)]
        if len(members) != 2 * len(self.info.items_of(shard)):
            raise ValueError(f"shard {shard}: {len(members) // 2} items are not all of it")
        write_bytes(shard_path(self.root, shard), tar_bytes(members))

    def _is_whole(self, shard: int) -> bool:
        try:
            there = len(list_shard(shard_path(self.root, shard)).names)
        except DataError:
            return False
        return there >= len(self.info.items_of(shard))

    def _files(self, sample: Sample) -> Iterator[tuple[str, bytes]]:
        if not _ID.fullmatch(sample.id):
            raise ValueError(f"id {sample.id!r}: letters, digits, - and _ only, at most 80")
        image = encode(sample.pixels, self.info.encoding)
        fields = {"id": sample.id, "k": sample.k, **sample.metadata, "blake2b": digest_of(image)}
        if sample.k == UPSCALED:
            fields["size"] = list(sample.pixels.shape[:2])
        name = f"{sample.id}.{sample.k}"
        yield f"{name}.{self.info.encoding}", image
        yield f"{name}.json", json.dumps(fields, allow_nan=False).encode()


@contextmanager
def create(root: Path, info: StoreInfo) -> Iterator[Writer]:
    """Make a store, or go on with the one that is there.

    Raises:
        ConfigError: the directory holds something else, or a store made with other settings.
        DataError: the store that is there is damaged.
        CheckpointError: another process writes there, or nothing can be written.
    """
    _refuse_foreign(root)
    with hold(root):
        remove_stale(root)
        if (root / STORE).exists():
            info = _continued(root, info)
        write_json(root / STORE, {"format": FORMAT, "ssgear": ssgear.__version__, **asdict(info)})
        yield Writer(root=root, info=info)


def encode(pixels: NDArray[np.uint8], encoding: str) -> bytes:
    """Return the image file of pixels [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **ENCODINGS[encoding])
    return file.getvalue()


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise ConfigError(f"--output: {root} is a file; name a directory")
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    foreign = [name for name in there if name != LOCK and not name.startswith(PREFIX)]
    if foreign and STORE not in there:
        raise ConfigError(
            f"--output: {root} holds other files ({foreign[0]}) and no {STORE}; name a new one"
        )


def _continued(root: Path, info: StoreInfo) -> StoreInfo:
    """Return the settings of the store that is there, with the larger count."""
    there = read_info(root, f"--output: {root}")
    # what JSON makes of the new settings: tuples are lists there
    old, new = _leaves(asdict(there)), _leaves(json.loads(json.dumps(asdict(info))))
    changed = [
        f"{key} ({old.get(key)}, now {new.get(key)})"
        for key in {**old, **new}
        if key != "count" and old.get(key) != new.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--output: {root} was made with other settings: {'; '.join(changed)}; use those, or "
            "name another directory"
        )
    return replace(info, count=max(there.count, info.count))


def _leaves(fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= _leaves(value) if isinstance(value, Mapping) else {name: value}
    return found
