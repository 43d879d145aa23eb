"""Synthetic images beside the real ones: a view store as a source, and both sources as one.

    synthetic = open_synthetic(config, source)     # None without --data.synthetic, or at ratio 0
    both = joined(source, synthetic)               # synthetic images are numbered after real ones

The labels of synthetic images stay in their store: a batch gets NO_LABEL for them.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.readers import Reader
from ssgear.data.sources.source import Images, Source
from ssgear.errors import DataError, refusing
from ssgear.storage.view_store import ViewStore

NO_LABEL = -1


class StoreReader(Reader):
    """The images of a view store."""

    def __init__(self, store: ViewStore) -> None:
        """Keep the store."""
        self.store = store

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.store)

    def full_name(self, index: int) -> str:
        """Return the shard and the number of an image."""
        return self.store.where(index)

    def own_name(self, index: int) -> str:
        """Return the number of an image."""
        return str(index)

    def _read(self, index: int, limit: int | None) -> bytes:
        with refusing(DataError, lambda error: BadImageError(str(error))):
            return self.store.encoded(index)


class JoinedReader(Reader):
    """The images of one source, and after them those of another."""

    def __init__(self, first: Source, second: Source) -> None:
        """Keep both."""
        self.first, self.second = first, second

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.first) + len(self.second)

    def encoded(self, index: int) -> bytes:
        """Return the file of an image as it is stored."""
        source, place = self._find(index)
        return source.stored(place)

    def image(self, index: int) -> Image.Image:
        """Return an image, upright RGB."""
        source, place = self._find(index)
        return source.image(place)

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return height and width."""
        source, place = self._find(index)
        return source.checked_size(place)

    def full_name(self, index: int) -> str:
        """Return where an image is, with whatever bytes its name has."""
        source, place = self._find(index)
        return source.full_name(place)

    def own_name(self, index: int) -> str:
        """Return the name of an image within its own set."""
        source, place = self._find(index)
        return source.own_name(place)

    def _find(self, index: int) -> tuple[Source, int]:
        """Return the source of an image and its place there."""
        real = len(self.first)
        return (self.first, index) if index < real else (self.second, index - real)


def open_synthetic(config: DataConfig, source: Source) -> Source | None:
    """Open --data.synthetic beside the real images; None where no image of it is to be seen.

    Raises:
        DataError: there is no store, or it is damaged or not complete.
    """
    if config.synthetic is None:
        return None
    store = ViewStore(config.synthetic.expanduser(), option="--data.synthetic")
    share = config.synthetic_share
    if not share:
        return None
    generated = torch.from_numpy(~store.is_upscaled).nonzero()[:, 0]
    if not len(generated):
        raise DataError(f"--data.synthetic: {store.root} {without_views(store)}")
    note = f"{100 * share:g} % of the images seen are synthetic, from {len(generated)}"
    images = Images(reader=StoreReader(store), side=store.info.size, notes=(note,))
    return Source("synthetic", images, mean=source.mean, std=source.std).subset(generated)


def without_views(store: ViewStore) -> str:
    """Say what a store holds that has no generated image."""
    if len(store):
        return "holds upscaled originals only"
    return f"holds no images: all {store.num_failed} failed"


def joined(source: Source, synthetic: Source) -> Source:
    """Return both as one source."""
    labels = joined_labels(source.labels, len(synthetic))
    images = Images(reader=JoinedReader(source, synthetic), labels=labels)
    both = Source(source.name, images, mean=source.mean, std=source.std)
    both.bad = (*source.bad, *synthetic.bad)
    return both


def joined_labels(labels: Tensor | None, num_synthetic: int) -> Tensor | None:
    """Return the labels of the real images and NO_LABEL for the synthetic ones."""
    if labels is None:
        return None
    return torch.cat([labels, labels.new_full((num_synthetic,), NO_LABEL)])
