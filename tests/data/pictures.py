"""Small pictures for the tests of data sources, made here."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.sources import Source, open_source

Pixels = NDArray[np.uint8]


def noise(height: int = 11, width: int = 13, channels: int = 3, seed: int = 0) -> Pixels:
    """Return random pixels [H, W, C]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int = 0, side: int = 8) -> bytes:
    """Return a PNG file of noise."""
    return encode(Image.fromarray(noise(side, side, seed=seed)))


def write(root: Path, names: list[str], side: int = 8) -> Path:
    """Write a different PNG picture for each name below a folder."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed, side))
    return root


def write_classes(root: Path, counts: dict[str, int], side: int = 8) -> Path:
    """Write some pictures into each of these folders."""
    names = [
        f"{folder}/{number}.png" for folder, count in counts.items() for number in range(count)
    ]
    return write(root, names, side)


def pack(folder: Path, path: Path, arcname: str) -> Path:
    """Write a tar of a folder."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w:") as archive:
        archive.add(folder, arcname=arcname)
    return path


def age(root: Path, seconds: float = 3600) -> Path:
    """Make everything below a folder look as if it had not changed for a while."""
    then = time.time_ns() - int(seconds * 1e9)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, ns=(then, then))
    return root


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar of these files in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def both(config: DataConfig) -> tuple[Source, Source]:
    return open_source(config, "train"), open_source(config, "test")


def names(source: Source) -> list[str]:
    """Names of the images, without the folder or tar."""
    where = [source.where(index) for index in range(len(source))]
    return [name.rpartition(".tar:")[2] or name for name in where]


def smooth(height: int, width: int, seed: int) -> Image.Image:
    """Return a picture whose neighbouring pixels are alike, as in photographs, with hard edges."""
    small = Image.fromarray(noise(height // 6 + 2, width // 6 + 2, seed=seed))
    picture = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    picture[height // 3 : height // 2, width // 4 :] = 255
    return Image.fromarray(picture)
