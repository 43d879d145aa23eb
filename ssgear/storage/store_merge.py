"""Several stores of the same settings become one: shards go over whole, with their markers.

    merged = merge([Path("a"), Path("b")], root)      # merged.missing: shards that nobody has

A shard is linked, or copied where the disk is another one, once its file has the digest that its
marker says. Of stores that were planned for different numbers of views the longest version of a
shard is taken; two that stand for the same views must be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ssgear.errors import ConfigError, DataError, refusing
from ssgear.storage.atomic import place_file
from ssgear.storage.store_marker import (
    Marker,
    digest_of_file,
    marker_path,
    read_marker,
    write_marker,
)
from ssgear.storage.store_writer import Writer, create, differences, unless_full
from ssgear.storage.view_store import STORE, StoreInfo, is_whole, read_info, shard_path


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came of it."""

    info: StoreInfo
    """Of the store that has been written."""
    taken: int
    """Shards that were not in it before."""
    missing: tuple[int, ...]
    """Shards that none has whole."""


class _Held(NamedTuple):
    """A version of a shard: its store, and its marker."""

    root: Path
    marker: Marker


def merge(
    stores: Sequence[Path], root: Path, advance: Callable[[int], None] = lambda done: None
) -> Merged:
    """Put the shards of some stores into `root`, a new store or one of the same settings.

    `advance` hears of every shard that has been dealt with. Nothing is written before all stores
    have been found to fit together.

    Raises:
        ConfigError: the stores, or the one that is there, have other settings.
        DataError: a store or a shard is damaged, or two versions of a shard differ.
    """
    known = (root / STORE).is_file()
    info = _common([*stores, root] if known else stores)
    held = {shard: _held(stores, shard) for shard in range(info.num_shards)}
    for shard, best in held.items():
        _same(best, _own_version(root, shard) if known else None, shard)
    writer, taken = create(root, info), 0
    for shard, best in held.items():
        taken += best is not None and _take(writer, shard, best)
        advance(1)
    return Merged(info=writer.info, taken=taken, missing=tuple(writer.missing()))


def _common(stores: Sequence[Path]) -> StoreInfo:
    """Return the settings that all stores share, with the largest number of views."""
    infos = [read_info(store, f"--merge: {store}") for store in stores]
    for store, info in zip(stores, infos, strict=True):
        changed = differences(infos[0], info)
        if changed:
            raise ConfigError(
                f"--merge: {store} was made with other settings than {stores[0]}: "
                f"{'; '.join(changed)}"
            )
    return replace(infos[0], count=max(info.count for info in infos))


def _held(stores: Sequence[Path], shard: int) -> _Held | None:
    """Return the longest version of a shard that a store has."""
    best: _Held | None = None
    for store in stores:
        found = _version(store, shard)
        _same(best, found, shard)
        if found is not None and (best is None or found.marker.tasks > best.marker.tasks):
            best = found
    return best


def _version(root: Path, shard: int) -> _Held | None:
    """Return what a store has of a shard."""
    marker = read_marker(root, shard)
    if marker is None:
        return None
    if is_whole(root, marker):
        return _Held(root, marker)
    raise DataError(
        f"--merge: {shard_path(root, shard)} has not the {marker.bytes} bytes that its marker "
        f"says: damaged or cut; remove {marker_path(root, shard).name} to do without it"
    )


def _own_version(root: Path, shard: int) -> _Held | None:
    """Return what the store that is written has of a shard; one that is damaged is not there."""
    with suppress(DataError):
        return _version(root, shard)
    return None


def _same(one: _Held | None, other: _Held | None, shard: int) -> None:
    """Refuse two versions that stand for the same views and differ."""
    if one is None or other is None or one.marker.tasks != other.marker.tasks:
        return
    if one.marker.blake2b == other.marker.blake2b:
        return
    raise DataError(
        f"--merge: {shard_path(one.root, shard)} and {shard_path(other.root, shard)} differ "
        "(made by other software, or on other hardware?); remove the marker "
        f"{marker_path(Path(), shard)} of the one that you do not want"
    )


def _take(writer: Writer, shard: int, held: _Held) -> bool:
    """Put a shard into the store, unless it has it, or a longer one."""
    with writer.claim(shard, wait=True):
        there = _own_version(writer.root, shard)
        if there is not None and there.marker.tasks >= held.marker.tasks:
            return False
        # read again: the other store may have been enlarged since
        marker, path = read_marker(held.root, shard), shard_path(held.root, shard)
        what = f"--merge: {path} cannot be copied to {writer.root}"
        with refusing(OSError, lambda error: unless_full(error, f"{what} ({error.strerror})")):
            if marker is None or digest_of_file(path) != marker.blake2b:
                raise DataError(
                    f"--merge: {path} is not the file that was written: its digest differs; remove "
                    "it and its marker to do without it"
                )
            # a reader never sees the new shard beside what was said of an old one
            marker_path(writer.root, shard).unlink(missing_ok=True)
            place_file(path, shard_path(writer.root, shard))
            write_marker(writer.root, marker)
    return True
