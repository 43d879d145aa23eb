"""View stores: generated images as WebDataset tar shards, with one `store.json` beside them.

    store = ViewStore(root)            # random access: len(store), store.encoded(i), .metadata(i)
    problems = verify(root)            # reads everything

Item i stands in shard i // shard_size as `ID.K.webp` (or jpg) and `ID.K.json`: the source's id (the
image's own number where it has no source), which view of it, generator, seed, parameters, digest.
The id of a source image is `source_id` of its name within its data set; the json has the name as
`source` and the image's `Source.digest` as `source_blake2b`, which is compared with some of the
images before a store is used, as sets of other images may have the same names. K numbers the views
of a source in any order, with gaps where some failed; K = `up` is the source itself, upscaled, with
its own `size` [height, width] in the json. `store.json` holds the settings that all items share,
and how many items there are to be, upscaled ones among them. Written by storage/store_writer.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgear.errors import DataError
from ssgear.storage import shards

STORE = "store.json"
FORMAT = 1
UPSCALED = "up"
"""K of a source itself, upscaled."""
_UPSCALED_NUMBER = -1
"""The same among numbers (`ViewStore.ks`)."""
_NAME = re.compile(r"([A-Za-z0-9_-]{1,80})\.(\d{1,9}|up)\.[a-z]+")
"""Id and K of an image's name."""
ENCODINGS: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "lossless": True},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
"""How Pillow writes each kind of file."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What all items of a store share."""

    count: int
    """Items that there are to be; may grow."""
    shard_size: int
    """Items of a shard."""
    encoding: str
    """webp (nothing is lost) or jpg."""
    size: int
    """Side of the images in pixels, upscaled sources aside."""
    settings: Mapping[str, Any]
    """Generator, seed and whatever else decides the pixels."""

    @property
    def num_shards(self) -> int:
        """Return how many shards hold the items."""
        return -(-self.count // self.shard_size)

    def items_of(self, shard: int) -> range:
        """Return the numbers of a shard's items."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.count))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A whole shard as it was listed."""

    path: Path
    """Its file."""
    names: list[str]
    """Name of each image."""
    ids: NDArray[np.bytes_]
    """[n] id of the source of each."""
    ks: NDArray[np.int64]
    """[n] K of each, -1 for an upscaled source."""
    spans: NDArray[np.int64]
    """[n, 4]: offset and size of each image, and of its json."""


class ViewStore:
    """The items of a complete store by number. Can be pickled and forked."""

    def __init__(self, root: Path, *, option: str = "") -> None:
        """List a store's shards; `option` names who asked for it.

        Raises:
            DataError: there is no store, a shard is damaged, or items are missing.
        """
        self.root = root
        where = f"{option}: {root}" if option else str(root)
        self.info = read_info(root, where)
        found = [self._listed(shard) for shard in range(self.info.num_shards)]
        have = sum(len(ids) for ids, _, _ in found)
        if have < self.info.count:
            raise DataError(
                f"{where}: holds {have} of {self.info.count} images; finish it by the command that "
                f"made it: python -m ssgear.generate ... --output {root}"
            )
        ids, ks, spans = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.ids: NDArray[np.bytes_] = ids
        self.ks: NDArray[np.int64] = ks
        self._spans: NDArray[np.int64] = spans

    def __len__(self) -> int:
        """Return how many items there are."""
        return self.info.count

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
        """Return what stands in the json of an item."""
        _, _, offset, size = (int(value) for value in self._spans[item])
        found = json.loads(shards.read_span(self._path_of(item), offset, size))
        if not isinstance(found, dict):
            raise DataError(f"{self.where(item)}: its json is no object")
        return found

    def where(self, item: int) -> str:
        """Return the shard and the number of an item for messages."""
        return f"{self._path_of(item)}: image {item}"

    def _path_of(self, item: int) -> Path:
        return shard_path(self.root, item // self.info.shard_size)

    def _listed(self, shard: int) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[Any]]:
        """Return ids, Ks and places of a shard's items, as far as they are there."""
        path = shard_path(self.root, shard)
        wanted = len(self.info.items_of(shard)) if path.is_file() else 0
        found = list_shard(path) if wanted else _shard(path, [], [])
        return found.ids[:wanted], found.ks[:wanted], found.spans[:wanted]


def verify(root: Path, *, option: str = "") -> list[str]:
    """Read every image of a store and its json; return what is wrong, a line for each.

    Raises:
        DataError: there is no store.
    """
    info = read_info(root, f"{option}: {root}" if option else str(root))
    problems: list[str] = []
    for number in range(info.num_shards):
        path = shard_path(root, number)
        try:
            shard = list_shard(path)
        except DataError as error:
            problems.append(str(error))
            continue
        wanted = len(info.items_of(number))
        if len(shard.names) < wanted:
            problems.append(f"{path}: holds {len(shard.names)} of {wanted} images")
        problems += _wrong_items(shard, info.size)
    return problems


def shard_path(root: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return root / f"{shard:06d}.tar"


def list_shard(path: Path) -> Shard:
    """List a shard; one that is not there, damaged, or of another layout is a `DataError`."""
    members = shards.list_members(path)
    images, texts = members[0::2], members[1::2]
    for image, text in zip(images, texts, strict=False):
        if text.name != f"{image.name.rpartition('.')[0]}.json":
            raise DataError(f"{path}: {text.name} stands where the json of {image.name} should")
    if len(images) != len(texts):
        raise DataError(f"{path}: {images[-1].name} has no json")
    spans = [(*image[1:], *text[1:]) for image, text in zip(images, texts, strict=True)]
    return _shard(path, [image.name for image in images], spans)


def source_id(name: str) -> str:
    """Return the id of a source image: a digest of its name within its data set."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()


def read_info(root: Path, where: str) -> StoreInfo:
    """Read `store.json`; `where` names the store in errors."""
    try:
        fields = json.loads((root / STORE).read_text("utf-8"))
        found = fields.pop("format")
        if found != FORMAT:
            raise DataError(f"{where}: format {found!r} is not one that this version reads")
        del fields["ssgear"]
        info = StoreInfo(**fields)
        numbers = (info.count, info.shard_size, info.size)
        if not all(type(value) is int and value >= 1 for value in numbers):
            raise ValueError(f"count, shard_size and size are {numbers}")
        if info.encoding not in ENCODINGS or not isinstance(info.settings, dict):
            raise ValueError(f"encoding is {info.encoding!r}, settings {info.settings!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{where}: is no view store (there is no {STORE} in it); make one with "
            "python -m ssgear.generate"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: {STORE} is damaged: {error}") from None
    return info


def digest_of(data: bytes) -> str:
    """Return the digest of an image that its json holds."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _shard(path: Path, names: list[str], spans: Sequence[tuple[int, ...]]) -> Shard:
    ids, ks = [], []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise DataError(f"{path}: {name} stands where ID.K.webp (or jpg) should")
        ids.append(match[1].encode())
        ks.append(_UPSCALED_NUMBER if match[2] == UPSCALED else int(match[2]))
    return Shard(
        path=path,
        names=names,
        ids=np.array(ids, dtype=np.bytes_),
        ks=np.array(ks, dtype=np.int64),
        spans=np.array(spans, dtype=np.int64).reshape(-1, 4),
    )


def _wrong_items(shard: Shard, size: int) -> list[str]:
    problems = []
    for name, (offset, length, *text) in zip(shard.names, shard.spans.tolist(), strict=True):
        try:
            image = shards.read_span(shard.path, offset, length)
            _check_item(image, json.loads(shards.read_span(shard.path, *text)), size)
        except Exception as error:  # decoders raise almost anything on damaged files
            problems.append(f"{shard.path}:{name}: {error}".splitlines()[0])
    return problems


def _check_item(image: bytes, metadata: Mapping[str, Any], size: int) -> None:
    if metadata["blake2b"] != digest_of(image):
        raise DataError("the image is not the one that was written")
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        upscaled = metadata["k"] == UPSCALED
        height, width = metadata["size"] if upscaled else (size, size)
        if opened.size != (width, height):
            raise DataError(f"{opened.width} x {opened.height} pixels, not {width} x {height}")
