"""Reading a whole view store (storage/view_store.py), to find what is damaged in it.

problems = verify(root)      # a line for each; every byte, image and json is read
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from ssgear import distributed
from ssgear.errors import DataError, first_line
from ssgear.storage import shards
from ssgear.storage.store_marker import Marker, digest_of_file, marker_path, read_marker
from ssgear.storage.view_store import (
    UPSCALED,
    Shard,
    StoreInfo,
    digest_of,
    list_shard,
    read_info,
    shard_of,
    shard_path,
)


def verify(root: Path, *, option: str = "") -> list[str]:
    """Read every shard of a store, every image and its json; return what is wrong, in order.

    Raises:
        DataError: there is no store.
    """
    info = read_info(root, f"{option}: {root}" if option else str(root))
    with ThreadPoolExecutor(distributed.usable_cores()) as pool:
        found = pool.map(lambda shard: _check_shard(root, info, shard), range(info.num_shards))
        return [problem for problems in found for problem in problems]


def _check_shard(root: Path, info: StoreInfo, number: int) -> list[str]:
    path = shard_path(root, number)
    if not (path.exists() or marker_path(root, number).exists()):
        return [f"{path}: has not been made"]
    try:
        shard, marker = list_shard(path), read_marker(root, number)
    except DataError as error:
        return [str(error)]
    if marker is None:
        return [f"{marker_path(root, number)}: is missing"]
    tasks, planned = marker.tasks, len(info.items_of(number))
    problems = [f"{path}: holds {tasks} of {planned} images"] if tasks < planned else []
    problems += _wrong_items(shard, info)
    return problems or _wrong_file(root, marker, shard)


def _wrong_file(root: Path, marker: Marker, shard: Shard) -> list[str]:
    """Compare a shard whose images are in order with its marker."""
    said = shard_of(root, marker)
    if said.names != shard.names or not (said.spans == shard.spans).all():
        return [f"{shard.path}: holds other images than its marker says"]
    if digest_of_file(shard.path) != marker.blake2b:
        return [f"{shard.path}: is not the file that was written: its digest differs"]
    return []


def _wrong_items(shard: Shard, info: StoreInfo) -> list[str]:
    problems = []
    for name, (offset, length, *text) in zip(shard.names, shard.spans.tolist(), strict=True):
        try:
            image = shards.read_span(shard.path, offset, length)
            _check_item(image, json.loads(shards.read_span(shard.path, *text)), info.size)
        except Exception as error:  # decoders raise almost anything on damaged files
            problems.append(f"{shard.path}:{name}.{info.encoding}: {first_line(error)}")
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
