"""Stored views of the images: which items of a view store belong to which image, as a source.

    stored = open_stored(config.views, source)     # None without --views.store, or at p = 0
    mix = stored.mix(images, first_row=..., num_views=2)    # for the sampler (view_mix.py)

An item belongs to an image by its id, which is `source_id` of the image's name within its set (the
path below the folder, the name within a tar, the number in an array), so that a folder may move.
Of a few items the image is compared with the one that they were made of. Items of other images,
such as those held out for the test, are not read.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssgear.config.schema import ViewsConfig
from ssgear.data.order.synthetic import StoreReader, without_views
from ssgear.data.order.view_mix import ViewMix
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.names import printable
from ssgear.data.sources.source import Images, Source
from ssgear.errors import ConfigError, DataError
from ssgear.storage.view_store import ViewStore, source_id

_COMPARED = 16
"""Items whose images are compared with what they were made of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredViews:
    """The items of a store that the policy needs, and whose they are."""

    config: ViewsConfig
    """Store, probability and policy."""
    source: Source
    """The items: generated views image by image, then upscaled images where the policy asks."""
    owner: Tensor
    """[items of the store] int64: row of the image in its reader, -1 for none."""
    is_upscaled: Tensor
    """[items of the store] bool."""

    def check_views(self, num_views: int) -> None:
        """Refuse a policy for second views where a sample has one."""
        if num_views < 2 and self.config.policy != "any":
            raise ConfigError(
                f"--views.policy: {self.config.policy} is about the second view, this method makes "
                "one of each image; use any"
            )

    def mix(self, images: Source, *, first_row: int, num_views: int) -> ViewMix:
        """Return the stored views of each of the images.

        `first_row` is what the first item of `source` is called among all rows of a loader.
        """
        place = torch.full((len(images.reader),), -1, dtype=torch.int64)
        place[images.index] = torch.arange(len(images))
        rows = torch.arange(len(self.source))
        image = place[self.owner[self.source.index]]
        upscaled = self.is_upscaled[self.source.index]
        generated = (image >= 0) & ~upscaled
        # an image's views follow each other: its first is where its number comes first
        owners, first, count = np.unique(
            image[generated].numpy(), return_index=True, return_counts=True
        )
        found = torch.zeros(3, len(images), dtype=torch.int64)
        found[0, owners] = first_row + rows[generated][torch.from_numpy(first)]
        found[1, owners] = torch.from_numpy(count)
        found[2] = -1
        some = (image >= 0) & upscaled
        found[2, image[some]] = first_row + rows[some]
        return ViewMix(
            policy=self.config.policy,
            probability=self.config.probability,
            num_views=num_views,
            first=found[0],
            count=found[1],
            upscaled=found[2],
        )

    def noted(self, mix: ViewMix) -> StoredViews:
        """Return the same with notes of what a run has of it."""
        source = self.source.subset(torch.arange(len(self.source)))
        source.notes = (_summary(self.config, mix), *_missing(mix))
        return replace(self, source=source)


def open_stored(config: ViewsConfig, images: Source) -> StoredViews | None:
    """Open --views.store for these images; None where no view of it is to be seen.

    Raises:
        DataError: there is no store, it is damaged or not complete, made for other images, or
            without upscaled originals where the policy needs them.
    """
    if config.store is None:
        return None
    store = ViewStore(config.store.expanduser(), option="--views.store")
    if not config.probability:
        return None
    owner = _owners(store, images)
    is_upscaled = store.is_upscaled
    generated = ((owner >= 0) & ~is_upscaled).nonzero()[0]
    if not len(generated):
        raise DataError(f"--views.store: {store.root} {_stranger(store, images)}")
    _compare(store, generated, owner, images)
    # by image, then by k: what a draw picks does not depend on the order in which views were made
    items = generated[np.lexsort((store.ks[generated], owner[generated]))]
    side: int | None = store.info.size
    if config.policy == "pair":
        upscaled = ((owner >= 0) & is_upscaled).nonzero()[0]
        if not len(upscaled):
            raise DataError(
                f"--views.store: {store.root} keeps no upscaled originals, which --views.policy "
                "pair shows; use second-only or any"
            )
        items, side = np.concatenate((items, upscaled)), None  # upscaled ones have their own sizes
    views = Source(
        "views", Images(reader=StoreReader(store), side=side), mean=images.mean, std=images.std
    )
    return StoredViews(
        config=config,
        source=views.subset(torch.from_numpy(items)),
        owner=torch.from_numpy(owner),
        is_upscaled=torch.from_numpy(is_upscaled),
    )


def _owners(store: ViewStore, images: Source) -> NDArray[np.int64]:
    """Return the reader's row of the image that each item belongs to, -1 for none."""
    rows = images.index.numpy()
    ids = np.array([source_id(images.own_name(i)) for i in range(len(images))], dtype=np.bytes_)
    order = ids.argsort(kind="stable")
    twice = (ids[order][1:] == ids[order][:-1]).nonzero()[0]
    if len(twice):
        name = printable(images.own_name(int(order[twice[0]])))
        raise DataError(
            f"--views.store: several of these images are called {name}: a view cannot be matched"
        )
    nearest = np.searchsorted(ids, store.ids, sorter=order).clip(max=len(ids) - 1)
    candidate = order[nearest]
    return np.where(ids[candidate] == store.ids, rows[candidate], -1)


def _compare(
    store: ViewStore, items: NDArray[np.int64], owner: NDArray[np.int64], images: Source
) -> None:
    """Refuse a store of other images that have the same names, by looking at some."""
    place = dict(zip(images.index.tolist(), range(len(images)), strict=True))
    for item in items[np.linspace(0, len(items) - 1, min(_COMPARED, len(items))).astype(int)]:
        index = place[int(owner[item])]
        made_of = store.metadata(int(item)).get("source_blake2b")
        with suppress(BadImageError):  # reading all of them will name it
            if made_of is None or made_of == images.digest(index):
                continue
            images.image(index)
            raise DataError(
                f"--views.store: {store.root} was made of other images of the same names, or they "
                f"have changed: {images.where(index)} is not the one that it has views of"
            )


def _stranger(store: ViewStore, images: Source) -> str:
    """Say that a store has no view of these images."""
    if store.is_upscaled.all():
        return f"{without_views(store)}; generate views of them too"
    made_of = store.metadata(0).get("source")
    if made_of is None:
        return (
            "holds images that are views of no others; train on them beside the real ones "
            f"by --data.synthetic {store.root}"
        )
    return (
        f"has no view of any of the {len(images)} images: it was made of others, such as "
        f"{printable(str(made_of))!r}, where these are called as {printable(images.own_name(0))!r}"
    )


def _summary(config: ViewsConfig, mix: ViewMix) -> str:
    has_views = mix.has_views()
    what = {
        "second-only": "the second view is a stored one",
        "any": "a view is a stored one",
        "pair": "the views are the upscaled original and a stored one",
    }[config.policy]
    chance = f"with probability {config.probability:g} " if config.probability < 1 else ""
    return (
        f"{chance}{what}: {int(mix.count[has_views].sum())} views of {int(has_views.sum())} "
        f"images from {config.store}"
    )


def _missing(mix: ViewMix) -> tuple[str, ...]:
    missing = int((~mix.has_views()).sum())
    if not missing:
        return ()
    what = "stored pair" if mix.policy == "pair" else "stored view"
    verb = "has" if missing == 1 else "have"
    total = len(mix.count)
    return (f"{missing} of {total} images {verb} no {what}: real images stand in",)
