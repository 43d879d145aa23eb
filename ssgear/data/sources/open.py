"""Data sets by name: `open_source(config, "train")` and what every set is.

To add a set, add an entry to `SOURCES`: how to read it, and the mean and standard deviation of its
colours. `--data.source auto` looks at --data.path. An opened `Source` has read names and labels
only; `decode_all` and `scan` read the images, and find the files that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ssgear.config.schema import DataConfig
from ssgear.data.augment.spec import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from ssgear.data.sources.digits import read_digits, read_mnist
from ssgear.data.sources.label_file import read_labels
from ssgear.data.sources.layout import (
    Layout,
    Part,
    folder_layout,
    hold_out,
    labels_of,
    separate_part,
    tiny_imagenet_layout,
)
from ssgear.data.sources.listing import Listing, list_files, list_zip
from ssgear.data.sources.names import printable
from ssgear.data.sources.published import published_folder, read_published
from ssgear.data.sources.shard_paths import holds_shards, is_pattern
from ssgear.data.sources.source import BadFile, Images, Source, Split, Triple
from ssgear.data.sources.webdataset import list_shards, shard_layout, shard_part
from ssgear.errors import ConfigError, DataError, did_you_mean, reason_of, refusing

MINI = Path(__file__).parents[1] / "mini" / "images.zip"
"""The embedded images (data/mini/ORIGIN.md)."""


Reading = Callable[[DataConfig, Split, Sequence[BadFile]], Images]
"""Reads a split; names files that a resumed run has lost, as if they were there."""


@dataclass(frozen=True)
class DataSet:
    """An entry of `SOURCES`."""

    read: Reading
    """Reads a split."""
    mean: Triple = IMAGENET_MEAN
    """Mean of red, green and blue in [0, 1]; ImageNet's are customary for photographs."""
    std: Triple = IMAGENET_STD
    """Standard deviation of the same."""
    labels_from_files: bool = True
    """Whether --data.labels can say what is on the images."""
    labelled_apart: bool = False
    """Whether labelled training images are a part of their own, beside unlabelled ones."""


def open_source(
    config: DataConfig, split: Literal["train", "test"], lost: Sequence[BadFile] = ()
) -> Source:
    """Open the images that the settings name.

    `lost` are files that vanished while the run that is resumed was training: they keep their
    numbers (data/order/missing.py).

    Raises:
        ConfigError: an unknown source, or options that contradict each other.
        DataError: a path without images, or files that are not what they should be.
    """
    return _open(config, split, lost)


def open_probe_source(config: DataConfig) -> Source:
    """Open the labelled images that a linear probe learns from.

    They are the training images, but for a set that has labelled ones apart.
    """
    return _open(config, "probe")


def has_labelled_part(name: str) -> bool:
    """Whether the set of that name has labelled training images apart from unlabelled ones."""
    return SOURCES[name].labelled_apart


def _open(config: DataConfig, wanted: Split, lost: Sequence[BadFile] = ()) -> Source:
    for option, path in (("--data.path", config.path), ("--data.test-path", config.test_path)):
        if path is not None and not is_pattern(path):
            _check_reachable(option, path)
    name = _name(config)
    entry = SOURCES[name]
    if config.labels and not entry.labels_from_files:
        raise ConfigError(
            f"--data.labels: {name} has labels of its own; --data.source folder or tar takes others"
        )
    if config.test_path and not _is_there(config.test_path):
        raise DataError(f"--data.test-path: {config.test_path} does not exist")
    if wanted == "test" and config.test_path:
        images = _read_test_path(config, entry, config.test_path)
    else:
        images = entry.read(config, wanted, lost)
    return Source(name, images, mean=entry.mean, std=entry.std, remember=config.cache)


def check_source(name: str) -> None:
    """Refuse a source that there is not."""
    known = ("auto", *SOURCES)
    if name not in known:
        raise ConfigError(
            f"--data.source: unknown source {name!r}{did_you_mean(name, known)}; "
            f"known: {', '.join(known)}"
        )


def _name(config: DataConfig) -> str:
    """Return the name of an entry; `auto` looks at the path."""
    check_source(config.source)
    if config.source != "auto":
        return config.source
    if config.download:
        raise ConfigError("--data.download: say what to fetch, --data.source cifar10 for one")
    if config.path is None:
        return "mini"
    path = config.path.expanduser()
    if is_pattern(path) or holds_shards(path):
        return "webdataset"
    if path.is_file():
        return "tar"
    tiny = any((folder / "wnids.txt").is_file() for folder in (path, path / "tiny-imagenet-200"))
    return published_folder(path) or ("tiny-imagenet" if tiny else "folder")


def _check_reachable(option: str, path: Path) -> None:
    """Refuse a path that the system does not let us look at; one that is absent is told later."""
    name = printable(str(path))
    name = name if len(name) < 200 else f"{name[:100]}..."
    # RuntimeError: no home, ValueError: a zero byte
    with (
        refusing(
            (OSError, RuntimeError, ValueError),
            lambda error: DataError(f"{option}: {name} cannot be looked at: {reason_of(error)}"),
        ),
        suppress(FileNotFoundError, NotADirectoryError),
    ):
        path.expanduser().stat()


def _is_there(path: Path) -> bool:
    return path.expanduser().exists() or is_pattern(path)


def _list(config: DataConfig, lost: Sequence[BadFile]) -> Listing:
    if config.path is None:
        raise ConfigError(f"--data.path: --data.source {config.source} needs a path")
    listing = list_files(config.path, "--data.path", remember=config.cache)
    return listing.with_images(file.name for file in lost)


def _read_mini(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    if config.path is not None:
        raise ConfigError(
            f"--data.path: the embedded images need none; leave {config.path} or "
            "--data.source mini away"
        )
    listing = list_zip(MINI)
    return replace(_images(config, wanted, listing, folder_layout(listing)), side=32)


def _read_tiny_imagenet(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    listing = _list(config, lost)
    layout = tiny_imagenet_layout(listing)
    if layout is None:
        raise DataError(
            f"--data.path: {listing.root} has not the layout of Tiny ImageNet "
            "(train/WNID/images/*.JPEG, val/val_annotations.txt); use --data.source folder"
        )
    return _images(config, wanted, listing, layout)


def _read_folder(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    if config.path is not None and config.path.expanduser().is_file():
        raise ConfigError(f"--data.source: {config.path} is a file; use --data.source tar")
    return _read_files(config, wanted, lost)


def _read_tar(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    if config.path is not None and config.path.expanduser().is_dir():
        raise ConfigError(f"--data.source: {config.path} is a folder; use --data.source folder")
    return _read_files(config, wanted, lost)


def _read_shards(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    if config.path is None:
        raise ConfigError("--data.path: --data.source webdataset needs tar shards")
    listing = list_shards(config.path, "--data.path", remember=config.cache)
    return _images(config, wanted, listing, shard_layout(listing))


def _read_files(config: DataConfig, wanted: Split, lost: Sequence[BadFile]) -> Images:
    listing = _list(config, lost)
    labels = None if config.labels is None else read_labels(config.labels, listing)
    layout = None if labels else tiny_imagenet_layout(listing)
    return _images(config, wanted, listing, layout or folder_layout(listing, labels))


def _images(config: DataConfig, wanted: Split, listing: Listing, layout: Layout) -> Images:
    """Return a split of a layout, holding out a share for the test where it has none."""
    train, test = layout.train, layout.test
    if test is None and config.test_path is None:
        train, test = hold_out(listing, train, config.test_share)
    part = test if wanted == "test" else train
    if part is None or not len(part.rows):
        raise DataError(
            f"{listing.root}: no test images; name some by --data.test-path, or hold a share out "
            f"by --data.test-share (now {config.test_share:g})"
        )
    images = _part_images(listing, part, layout.keys)
    return replace(images, classes=layout.classes)


def _part_images(listing: Listing, part: Part, keys: Sequence[str] | None) -> Images:
    labels = labels_of(part, keys, str(listing.root))
    return Images(
        reader=listing.reader(),
        rows=torch.from_numpy(part.rows),
        keys=None if keys is None else tuple(keys),
        labels=None if labels is None else torch.from_numpy(labels),
        notes=part.notes,
        ignored=len(listing.others),
    )


def _read_test_path(config: DataConfig, entry: DataSet, path: Path) -> Images:
    """Read --data.test-path with the classes of the training images."""
    training = entry.read(config, "probe", ())
    option, remember = "--data.test-path", config.cache
    if is_pattern(path) or holds_shards(path.expanduser()) or _name(config) == "webdataset":
        listing = list_shards(path, option, remember=remember)
        part = shard_part(listing)
    else:
        listing = list_files(path, option, remember=remember)
        part = separate_part(listing, training.keys)
    images = _part_images(listing, part, training.keys)
    return replace(images, classes=training.classes)


def _published(name: str) -> Reading:
    return lambda config, wanted, _: read_published(name, config, wanted)


def _labelled(read: Reading, mean: Triple, std: Triple) -> DataSet:
    """Return a set that has labels of its own."""
    return DataSet(read, mean, std, labels_from_files=False)


SOURCES: dict[str, DataSet] = {
    "mini": _labelled(_read_mini, CIFAR_MEAN, CIFAR_STD),
    "cifar10": _labelled(_published("cifar10"), CIFAR_MEAN, CIFAR_STD),
    "cifar100": _labelled(
        _published("cifar100"), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "stl10": DataSet(
        _published("stl10"),
        (0.4467, 0.4398, 0.4066),
        (0.2603, 0.2566, 0.2713),
        labels_from_files=False,
        labelled_apart=True,
    ),
    "digits": _labelled(
        lambda config, wanted, _: read_digits(config, wanted), (0.0764,) * 3, (0.2072,) * 3
    ),
    "mnist": _labelled(
        lambda config, wanted, _: read_mnist(config, wanted), (0.1000,) * 3, (0.2752,) * 3
    ),
    "tiny-imagenet": _labelled(
        _read_tiny_imagenet, (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    ),
    "folder": DataSet(_read_folder),
    "tar": DataSet(_read_tar),
    "webdataset": DataSet(_read_shards, labels_from_files=False),
}
"""Every set by the name that --data.source takes."""
