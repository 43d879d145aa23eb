"""Folders of small images, and stores of views of them made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgear.storage.store_writer import Sample, create
from ssgear.storage.view_store import StoreInfo, digest_of, source_id

Pixels = NDArray[np.uint8]
SIDE = 32


def noise(*key: int, size: int = 16) -> Pixels:
    """Pixels [size, size, 3] of a key."""
    return np.random.default_rng(key).integers(0, 256, (size, size, 3), dtype=np.uint8)


def folder(root: Path, count: int, size: int = 16) -> Path:
    """Write images of two classes, `a/00.png`, `b/01.png`, `a/02.png`..."""
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, size=size)).save(path)
    return root


def view_of(name: str, k: int | str, size: int) -> Pixels:
    """Pixels of a stored view: nothing like any image, and no two alike."""
    return noise(*name.encode(), 1000 + (999 if k == "up" else int(k)), size=size)


def samples(
    names: Iterable[str],
    ks: Sequence[int],
    size: int,
    up: int | None,
    images: Path | None = None,
) -> list[Sample]:
    """Views `ks` of each named image, and the upscaled image of side `up`.

    With the digest of each image where their folder is given.
    """

    def metadata(name: str) -> dict[str, str]:
        digest = {"source_blake2b": digest_of((images / name).read_bytes())} if images else {}
        return {"source": name, **digest}

    return [
        Sample(id=source_id(name), k=k, pixels=view_of(name, k, side), metadata=metadata(name))
        for name in names
        for k, side in [*((k, size) for k in ks), *([("up", up)] if up else [])]
    ]  # type: ignore[arg-type]


def write(root: Path, items: Sequence[Sample], size: int, shard_size: int = 7) -> Path:
    """Write a store of these items; upscaled images are not counted among the planned views."""
    shards: list[list[Sample]] = [[]]
    for item in items:
        views = sum(each.k != "up" for each in shards[-1])
        if views == shard_size and item.k != "up":
            shards.append([])
        shards[-1].append(item)
    count = sum(item.k != "up" for item in items)
    info = StoreInfo(count=count, shard_size=shard_size, encoding="webp", size=size, settings={})
    writer = create(root, info)
    for shard in writer.missing():
        writer.write_shard(shard, shards[shard])
    return root


def names_of(images: Path) -> list[str]:
    """Paths of the images below their folder."""
    return sorted(str(file.relative_to(images)) for file in images.rglob("*.png"))


def view_store(
    root: Path, images: Path, *, views: int = 2, size: int = 16, up: int | None = None
) -> Path:
    """Write a store of views of every image of a folder."""
    return write(root, samples(names_of(images), range(views), size, up, images), size)


def numbered(number: int, size: int = SIDE) -> Pixels:
    """Return the image of a number."""
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_store(root: Path, count: int, size: int = SIDE) -> Path:
    """Write a store of `numbered` images that are views of no others."""
    info = StoreInfo(count=count, shard_size=5, encoding="webp", size=size, settings={})
    writer = create(root, info)
    for shard in writer.missing():
        items = writer.info.items_of(shard)
        writer.write_shard(
            shard,
            [
                Sample(id=f"{i:04d}", pixels=numbered(i, size), metadata={"label": i % 2})
                for i in items
            ],
        )
    return root
