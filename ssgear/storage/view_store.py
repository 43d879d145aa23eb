"""View stores: generated images as WebDataset tar shards, with one `store.json` beside them.

    store = ViewStore(root)            # random access: len(store), store.encoded(i), .metadata(i)

Planned view n belongs to shard n // shard_size, `NNNNNN.tar`, as `ID.K.webp` (or jpg) and
`ID.K.json`: the source's id (the image's own number where it has no source), which view of it,
generator, seed, parameters, digest. A shard may hold less than was planned, as some fail, and more,
as sources themselves may be kept, upscaled: K = `up`, with their own `size` [height, width] in the
json. What a shard holds stands in its marker `NNNNNN.json` (storage/store_marker.py), without which
it is not complete. `store.json` holds the settings that all items share, and how many are planned.

The id of a source image is `source_id` of its name within its data set; the json has the name as
`source` and the image's `Source.digest` as `source_blake2b`, which is compared with some of the
images before a store is used, as sets of other images may have the same names. Written by
storage/store_writer.py, read as a whole by storage/store_check.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgear.errors import DataError, refusing
from ssgear.storage import shards
from ssgear.storage.json_files import parse_object, read_object, reading
from ssgear.storage.store_marker import Failed, Marker, read_marker

STORE = "store.json"
FORMAT = 2
UPSCALED = "up"
"""K of a source itself, upscaled."""
_UPSCALED_NUMBER = -1
"""The same among numbers (`ViewStore.ks`)."""
_NAME = re.compile(r"([A-Za-z0-9_-]{1,80})\.(\d{1,9}|up)")
"""Id and K of an image."""
ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    # a tenth of the time of the default, for a file that is a tenth to a third larger
    "webp": ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
"""How Pillow writes each kind of file: its name of the format, and options."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What all items of a store share."""

    count: int
    """Views that are planned; may grow."""
    shard_size: int
    """Planned views of a shard."""
    encoding: str
    """webp (nothing is lost) or jpg."""
    size: int
    """Side of the images in pixels, upscaled sources aside."""
    settings: Mapping[str, Any]
    """Generator, seed and whatever else decides the pixels."""
    images: Mapping[str, Any] | None = None
    """Options that named the images when it was last written to, and may not any more."""

    @property
    def num_shards(self) -> int:
        """Return how many shards hold the views."""
        return -(-self.count // self.shard_size)

    def items_of(self, shard: int) -> range:
        """Return the numbers of a shard's planned views."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.count))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a shard holds."""

    path: Path
    """Its file."""
    names: list[str]
    """`ID.K` of each image."""
    ids: NDArray[np.bytes_]
    """[n] id of the source of each."""
    ks: NDArray[np.int64]
    """[n] K of each, -1 for an upscaled source."""
    spans: NDArray[np.int64]
    """[n, 4]: offset and size of each image, and of its json."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A shard of a store, as far as it is there."""

    shard: Shard
    """What it holds."""
    tasks: int
    """Planned views that it stands for."""
    failed: tuple[Failed, ...] = ()
    """Those that could not be made."""


class ViewStore:
    """The items of a complete store by number. Can be pickled and forked."""

    def __init__(self, root: Path, *, option: str = "") -> None:
        """List a store's shards; `option` names who asked for it.

        Raises:
            DataError: there is no store, a shard is damaged, or some are missing.
        """
        self.root = root
        self._asked = f"{option}: " if option else ""
        where = f"{self._asked}{root}"
        self.info = read_info(root, where)
        found = [listed(root, self.info, shard) for shard in range(self.info.num_shards)]
        have = sum(each.tasks for each in found)
        if have < self.info.count:
            raise DataError(
                f"{where}: holds {have} of {self.info.count} images; finish it by the command that "
                f"made it: python -m ssgear.generate ... --output {root}"
            )
        self.num_failed = sum(len(each.failed) for each in found)
        """Planned views that are not there, as their making failed."""
        shards = [each.shard for each in found]
        self.ids: NDArray[np.bytes_] = np.concatenate([shard.ids for shard in shards])
        self.ks: NDArray[np.int64] = np.concatenate([shard.ks for shard in shards])
        self._spans: NDArray[np.int64] = np.concatenate([shard.spans for shard in shards])
        self._ends: NDArray[np.int64] = np.cumsum([len(shard.names) for shard in shards])

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.ids)

    @property
    def is_upscaled(self) -> NDArray[np.bool_]:
        """Return which items are sources themselves, upscaled: [n]."""
        upscaled: NDArray[np.bool_] = self.ks == _UPSCALED_NUMBER
        return upscaled

    def encoded(self, item: int) -> bytes:
        """Return the image file of an item; `DataError` gives the reason without its name."""
        offset, size, _, _ = (int(value) for value in self._spans[item])
        return shards.read_span(self._path_of(item), offset, size)

    def metadata(self, item: int) -> dict[str, Any]:
        """Return what stands in the json of an item; one that is damaged is a `DataError`."""
        _, _, offset, size = (int(value) for value in self._spans[item])
        where = f"{self._asked}{self.where(item)}"
        with refusing((DataError, ValueError), lambda e: DataError(f"{where}: damaged: {e}")):
            return parse_object(shards.read_span(self._path_of(item), offset, size))

    def where(self, item: int) -> str:
        """Return the shard and the number of an item for messages."""
        return f"{self._path_of(item)}: image {item}"

    def _path_of(self, item: int) -> Path:
        return shard_path(self.root, int(np.searchsorted(self._ends, item, side="right")))


def shard_path(root: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return root / f"{shard:06d}.tar"


def list_shard(path: Path) -> Shard:
    """List a shard by its file; one that is not there, or damaged, is a `DataError`."""
    members = shards.list_members(path)
    images, texts = members[0::2], members[1::2]
    for image, text in zip(images, texts, strict=False):
        if text.name != f"{image.name.rpartition('.')[0]}.json":
            raise DataError(f"{path}: {text.name} stands where the json of {image.name} should")
    if len(images) != len(texts):
        raise DataError(f"{path}: {images[-1].name} has no json")
    spans = [(*image[1:], *text[1:]) for image, text in zip(images, texts, strict=True)]
    return _shard(path, [image.name.rpartition(".")[0] for image in images], spans)


def shard_of(root: Path, marker: Marker) -> Shard:
    """List a shard by its marker."""
    sizes = np.array([item[1:] for item in marker.items], dtype=np.int64).reshape(-1, 2)
    starts = shards.spans(sizes.reshape(-1)).reshape(-1, 2)
    spans = np.stack([starts, sizes], axis=2).reshape(-1, 4)
    return _shard(shard_path(root, marker.shard), [item[0] for item in marker.items], spans)


def is_whole(root: Path, marker: Marker) -> bool:
    """Whether the shard of a marker has the size that it says."""
    with suppress(OSError):
        return shard_path(root, marker.shard).stat().st_size == marker.bytes
    return False


def source_id(name: str) -> str:
    """Return the id of a source image: a digest of its name within its data set."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()


def read_info(root: Path, where: str) -> StoreInfo:
    """Read `store.json`; `where` names the store in errors."""
    absent = DataError(
        f"{where}: is no view store (there is no {STORE} in it); make one with "
        "python -m ssgear.generate"
    )
    gone = (FileNotFoundError, NotADirectoryError)
    with reading(f"{where}/{STORE}", DataError), refusing(gone, lambda _: absent):
        fields = read_object(root / STORE)
        written = fields.pop("format")
        if written != FORMAT:
            raise DataError(f"{where}: format {written!r} is not one that this version reads")
        del fields["ssgear"]
        info = StoreInfo(**fields)
        numbers = (info.count, info.shard_size, info.size)
        if not all(type(value) is int and value >= 1 for value in numbers):
            raise ValueError(f"count, shard_size and size are {numbers}")
        if info.encoding not in ENCODINGS or not isinstance(info.settings, dict):
            raise ValueError(f"encoding is {info.encoding!r}, settings {info.settings!r}")
        if not isinstance(info.images, dict | None):
            raise ValueError(f"images is {info.images!r}")
    return info


def digest_of(data: bytes) -> str:
    """Return the digest of an image that its json holds."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def listed(root: Path, info: StoreInfo, number: int) -> Listed:
    """Return what a store holds of a shard; one that is damaged is a `DataError`."""
    path, marker = shard_path(root, number), read_marker(root, number)
    if marker is None or not path.is_file():
        return Listed(shard=_shard(path, [], ()), tasks=0)
    if not is_whole(root, marker):
        raise DataError(
            f"{path}: has not the {marker.bytes} bytes that its marker says: damaged or cut"
        )
    tasks = min(marker.tasks, len(info.items_of(number)))
    return Listed(shard=shard_of(root, marker), tasks=tasks, failed=marker.failed)


def _shard(
    path: Path, names: list[str], spans: NDArray[np.int64] | Sequence[tuple[int, ...]]
) -> Shard:
    ids, ks = [], []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(f"{path}: {name} stands where ID.K should")
        ids.append(match[1].encode())
        ks.append(_UPSCALED_NUMBER if match[2] == UPSCALED else int(match[2]))
    return Shard(
        path=path,
        names=names,
        ids=np.array(ids, dtype=np.bytes_),
        ks=np.array(ks, dtype=np.int64),
        spans=np.array(spans, dtype=np.int64).reshape(-1, 4),
    )
