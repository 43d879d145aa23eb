"""Real images that views are made of, by the number of a view in its store.

Item n of a store is view n // N of image n % N, so that more views of each image are added at its
end. An image goes by its name within its source, as `--views.store` finds it again
(data/order/stored_views.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.sources import open_source
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.loading import GREY, Bad, load_images, scan
from ssgear.data.sources.names import printable
from ssgear.data.sources.source import Source
from ssgear.storage.view_store import source_id
from ssgear.views.base import Json

LOOKED_AT = 64
"""Images that `settings` are made of: enough to tell one set from another."""


@dataclass(frozen=True)
class Originals:
    """The training images that can be read, as squares."""

    source: Source
    """Which images."""
    size: int
    """Side of the squares in pixels."""
    workers: int = 0
    """Threads that decode."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.source)

    def name_of(self, item: int) -> tuple[str, int]:
        """Return id of the image and number of the view of an item."""
        view, image = divmod(item, len(self))
        return source_id(self.source.own_name(image)), view

    def about(self, item: int) -> dict[str, str]:
        """Return what the json of an item says of its image: its name, and a digest of its file."""
        image = item % len(self)
        name = printable(self.source.own_name(image))
        return {"source": name, "source_blake2b": self.source.digest(image)}

    def load(self, items: Sequence[int]) -> Tensor:
        """Return the images of some items, uint8 [n, 3, size, size]."""
        images = torch.tensor([item % len(self) for item in items])
        return load_images(self.source, images, self.size, workers=self.workers)

    def read(self, items: Sequence[int]) -> tuple[Tensor, list[dict[str, str]], dict[int, str]]:
        """Return images as `load` does, `about` each, and the rows that cannot be read, with why.

        Grey stands in for an image that was readable when the set was opened and is not any more.
        """
        images = torch.tensor([item % len(self) for item in items])
        bad: Bad = []
        pixels = load_images(
            self.source, images, self.size, workers=self.workers, missing=GREY, bad=bad
        )
        unreadable, about = dict(bad), []
        for row, item in enumerate(items):
            try:
                about.append({} if row in unreadable else self.about(item))
            except BadImageError as error:
                about.append({})
                unreadable[row] = str(error)
        return pixels, about, unreadable

    @cached_property
    def settings(self) -> dict[str, Json]:
        """Return which images these are, without where they lie: plain JSON."""
        some = torch.linspace(0, len(self) - 1, min(LOOKED_AT, len(self))).round().long()
        pixels = self.load(some.tolist()).numpy().tobytes()
        digest = hashlib.blake2b(pixels, digest_size=8)
        for image in range(len(self)):
            digest.update(source_id(self.source.own_name(image)).encode())
        return {
            "source": self.source.name,
            "images": len(self),
            "images_blake2b": digest.hexdigest(),
        }


def open_originals(config: DataConfig, size: int) -> Originals:
    """Open the training images that the settings name, without those that cannot be read."""
    source, _ = scan(open_source(config, "train"), config)
    return Originals(source, size, config.workers)
