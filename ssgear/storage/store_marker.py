"""The marker of a shard: `NNNNNN.json`, written after `NNNNNN.tar`. Without it a shard is not done.

It says which planned views the shard stands for, what lies in it and how long each part is (so that
a store is opened without reading its shards), the shard's digest, which views failed and why, and
the software that made it. It depends on the shard's contents and the software alone.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from ssgear.errors import DataError
from ssgear.storage.atomic import write_text
from ssgear.storage.json_files import read_object, reading

PACKAGES = (
    "ssgear", "torch", "numpy", "pillow", "diffusers", "transformers", "spandrel", "onnxruntime",
)  # fmt: skip
"""What the pixels may depend on."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A view that was to be made and is not stored."""

    id: str
    """Id of the source image, or number of an image that has none."""
    k: int
    """Which view of it."""
    seed: int
    """What its chance was drawn from."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What is known of a whole shard."""

    shard: int
    """Its number."""
    tasks: int
    """Planned views that it stands for, failed ones among them; fewer than there are to be where
    the store has grown."""
    bytes: int
    """Size of the tar file."""
    blake2b: str
    """Digest of the tar file."""
    items: tuple[tuple[str, int, int], ...]
    """`ID.K` of each image in it, and how many bytes image and json have."""
    failed: tuple[Failed, ...]
    """Views that are missing on purpose."""
    software: Mapping[str, str]
    """Versions."""


def marker_path(root: Path, shard: int) -> Path:
    """Return the file of a shard's marker."""
    return root / f"{shard:06d}.json"


def write_marker(root: Path, marker: Marker) -> None:
    """Write a marker, whole or not at all."""
    write_text(marker_path(root, marker.shard), json.dumps(asdict(marker), allow_nan=False) + "\n")


def read_marker(root: Path, shard: int) -> Marker | None:
    """Read the marker of a shard; None where there is none.

    Raises:
        DataError: it is damaged, or that of another shard.
    """
    path = marker_path(root, shard)
    with suppress(FileNotFoundError), reading(path, DataError):
        fields = read_object(path)
        fields["items"] = tuple(_item(*item) for item in fields["items"])
        fields["failed"] = tuple(Failed(**each) for each in fields["failed"])
        marker = Marker(**fields)
        numbers = (marker.shard, marker.tasks, marker.bytes)
        if numbers[0] != shard or not all(type(value) is int and value >= 0 for value in numbers):
            raise ValueError(f"shard, tasks and bytes are {numbers}")
        return marker
    return None


def digest_of_file(path: Path) -> str:
    """Return the digest of a shard that its marker holds."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, new_digest).hexdigest()


def new_digest() -> hashlib.blake2b:
    """Return the digest of no bytes yet."""
    return hashlib.blake2b(digest_size=16)


def software() -> dict[str, str]:
    """Return the versions of what is installed of `PACKAGES`, and Python's."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _item(name: str, image: int, text: int) -> tuple[str, int, int]:
    if not (type(image) is int and type(text) is int and image >= 0 and text >= 0):
        raise ValueError(f"the sizes of {name!r} are {image!r} and {text!r}")
    return str(name), image, text
