"""The images that an encoder is measured on, as squares of its size.

    images = EvalImages(data=DataConfig(...), max_images=1000)
    data, facts = images.load(32)
    data.test_images[:50]                                  # uint8 [50, 3, 32, 32], decoded now

No set of images is held in memory as a whole: `ImageRows` decodes what is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.sources import (
    Source,
    has_labelled_part,
    load_images,
    open_probe_source,
    open_source,
    scan,
)
from ssgear.data.sources.published import read_folds
from ssgear.data.sources.readers import ArchiveReader, ArrayReader, FolderReader
from ssgear.errors import DataError
from ssgear.evaluation.features.rows import Rows
from ssgear.methods.base import LabelledSplits
from ssgear.storage.atomic import Json

Split = tuple[Rows, Tensor | None]
"""Images uint8 [N, 3, S, S], and labels [N] int64 where there are any."""


class ImageRows:
    """Images of a source as squares, uint8 [N, 3, size, size], decoded when they are asked for."""

    def __init__(
        self, source: Source, size: int, *, workers: int = 0, decoded: Tensor | None = None
    ) -> None:
        """Take a source of images that can be read, perhaps with all of them `decoded` already."""
        self.source = source
        self.size = size
        self.workers = workers
        self.decoded = decoded
        self.shape = (len(source), 3, size, size)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Decode some of the images.

        Raises:
            DataError: one of them cannot be read.
        """
        if self.decoded is not None:
            return self.decoded[rows]
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        return load_images(self.source, rows, self.size, workers=self.workers)

    def name_of(self, row: int) -> str:
        """Return the name of an image within its set, for an error."""
        return self.source.own_name(row)

    def evenly(self, count: int) -> ImageRows:
        """Return at most `count` of the images, evenly spread."""
        if count >= len(self):
            return self
        rows = torch.linspace(0, len(self) - 1, count, dtype=torch.float64).round().long()
        decoded = None if self.decoded is None else self.decoded[rows]
        part = self.source.subset(rows)
        return ImageRows(part, self.size, workers=self.workers, decoded=decoded)

    @property
    def state(self) -> str:
        """Return a digest that changes with the images; empty where nothing can be relied on.

        Files are known by name, size and time of change, arrays by their pixels.
        """
        reader, rows = self.source.reader, self.source.index.numpy()
        if isinstance(reader, ArrayReader):
            content = np.ascontiguousarray(reader.pixels[rows])
        elif isinstance(reader, FolderReader | ArchiveReader):
            content = reader.stamps(rows)
            if not content.all():
                return ""
        else:
            return ""
        return _digest(content.data, str(self.size).encode())


def fingerprint(source: Source) -> str:
    """Return a digest of which images these are, by their names and labels in order.

    It does not depend on where they lie or on their size in pixels, so that runs on several
    machines and of several resolutions can be compared.
    """
    names = "\0".join(source.own_name(row) for row in range(len(source)))
    labels = b"" if source.labels is None else source.labels.numpy().tobytes()
    return _digest(names.encode(errors="surrogateescape"), labels)


def _digest(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """Images of both splits, uint8 [N, 3, S, S], and labels [N] int64 where there are any."""

    train_images: Rows
    train_labels: Tensor | None
    test_images: Rows
    test_labels: Tensor | None
    classes: tuple[str, ...] | None = None
    folds: tuple[Tensor, ...] = ()
    """Rows of the training images that the set's authors tell to train on, where they do."""
    train_names: tuple[str, ...] | None = None
    """Name of each training image within its set, where it has one."""
    test_print: str = ""
    """Fingerprint of the test images; empty where it is not known."""

    def split(self, name: Literal["test", "training"]) -> Split:
        """Return images and labels of one split."""
        if name == "test":
            return self.test_images, self.test_labels
        return self.train_images, self.train_labels

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels, and the training images at least two classes."""
        labels = self.train_labels
        if labels is None or self.test_labels is None or not len(labels):
            return False
        return int(labels.min()) != int(labels.max())

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of both splits.

        Raises:
            DataError: there are none, or those of a single class.
        """
        train, test = self.train_labels, self.test_labels
        if train is None or test is None or not len(train):
            raise DataError(
                "--protocol: this protocol needs labels and these images have none; use class "
                "folders, --data.labels, or a protocol without labels such as health"
            )
        if not self.labelled:
            raise DataError(
                "--protocol: this protocol needs at least two classes and all training images are "
                "of one; use other images, or a protocol without labels such as health"
            )
        return train, test

    @property
    def labelled_splits(self) -> LabelledSplits:
        """Return the images in memory, for a method's own protocol."""
        train_labels, test_labels = self.labels
        return LabelledSplits(
            train_images=self.train_images[:],
            train_labels=train_labels,
            test_images=self.test_images[:],
            test_labels=test_labels,
            classes=self.classes,
        )


@dataclass(frozen=True, kw_only=True)
class EvalImages:
    """Which images, and how many of them."""

    data: DataConfig
    max_images: int | None = None
    """Of each split, evenly spread; by default all."""
    select: Callable[[Source], Source] = lambda source: source
    """Keeps those that count."""
    has_folds: bool = False
    """Whether the set's own folds are read too."""

    def load(self, size: int) -> tuple[EvalData, dict[str, Json]]:
        """Open both splits, and say what they are."""
        opened = open_probe_source(self.data), open_source(self.data, "test")
        train, test = (self._rows(self.select(source), size) for source in opened)
        name = train.source.name
        folds = read_folds(name, self.data) if self.has_folds else ()
        facts: dict[str, Json] = {
            "source": name,
            "num_train": len(train),
            "num_test": len(test),
            "bad_files": [
                f"{bad.where}: {bad.reason}" for bad in (*train.source.bad, *test.source.bad)
            ],
        }
        return data_of(train, test, folds=folds), facts

    def trained(self, name: str) -> Callable[[int], Split] | None:
        """Return a reader of the images that a run learns from; None where `load` has the same.

        `name` is that of the set: of one with a labelled part, `load` has that part only.
        """
        if not has_labelled_part(name):
            return None
        source = open_source(self.data, "train")
        if source.labels is not None:
            return None
        return lambda size: (self._rows(source, size), None)

    def _rows(self, source: Source, size: int) -> ImageRows:
        """Return the images that can be read, evenly thinned to `max_images`."""
        good, _ = scan(source, self.data)
        rows = ImageRows(good, size, workers=self.data.workers)
        return rows if self.max_images is None else rows.evenly(self.max_images)


def data_of(train: ImageRows, test: ImageRows, *, folds: tuple[Tensor, ...] = ()) -> EvalData:
    """Return images and labels of two splits."""
    source = train.source
    return EvalData(
        train_images=train,
        train_labels=source.labels,
        test_images=test,
        test_labels=test.source.labels,
        classes=source.classes,
        folds=folds,
        train_names=tuple(source.own_name(row) for row in range(len(source))),
        test_print=fingerprint(test.source),
    )
