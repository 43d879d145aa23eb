"""The images that an encoder is measured on, as squares of its size.

images = EvalImages(data=DataConfig(...), max_images=1000)
data, facts = images.load(32)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

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
from ssgear.evaluation.protocols import EvalData, Split
from ssgear.storage.atomic import Json


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
        """Read both splits, and say what they are."""
        opened = open_probe_source(self.data), open_source(self.data, "test")
        (train_source, train), (test_source, test) = (
            self._read(self.select(source), size) for source in opened
        )
        name = train_source.name
        data = EvalData(
            train_images=train[0],
            train_labels=train[1],
            test_images=test[0],
            test_labels=test[1],
            classes=train_source.classes,
            folds=read_folds(name, self.data) if self.has_folds else (),
        )
        bad_files = [*train_source.bad, *test_source.bad]
        facts: dict[str, Json] = {
            "source": name,
            "num_train": len(data.train_images),
            "num_test": len(data.test_images),
            "bad_files": [f"{bad.where}: {bad.reason}" for bad in bad_files],
        }
        return data, facts

    def trained(self, name: str) -> Callable[[int], Split] | None:
        """Return a reader of the images that a run learns from; None where `load` has the same.

        `name` is that of the set: of one with a labelled part, `load` has that part only.
        """
        if not has_labelled_part(name):
            return None
        source = open_source(self.data, "train")
        return None if source.labels is not None else lambda size: self._read(source, size)[1]

    def _read(self, source: Source, size: int) -> tuple[Source, Split]:
        """Return what of a source can be read, and evenly spread images and labels of it."""
        good, _ = scan(source, self.data)
        count = min(len(good), self.max_images or len(good))
        rows = torch.linspace(0, len(good) - 1, count).round().long()
        images = load_images(good, rows, size, workers=self.data.workers)
        return good, (images, None if good.labels is None else good.labels[rows])
