"""What a generation is to make: which views, in which shards and blocks, from which seeds.

A `Job` is all that a worker needs beside its generator, in this process or in another one: what is
made of it depends on nothing else. View n of a store without sources is image n; with sources it is
view n // N of image n % N (views/jobs/originals.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import ConfigError
from ssgear.views.base import Json, item_seed

if TYPE_CHECKING:
    from ssgear.storage.view_store import StoreInfo
    from ssgear.views.base import Generator
    from ssgear.views.jobs.originals import Originals


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a generator that has been built says of itself."""

    size: int
    """Side of what it makes in pixels."""
    image_size: int | None
    """Side of the images that it makes views of; None: it draws from noise."""
    batch_size: int
    """Rows of a block, unless the user says otherwise."""
    settings: Mapping[str, Json]
    """What decides the pixels."""
    hardware: str = ""
    """Where it computes, which may decide their last bits."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


@dataclass(frozen=True)
class Task:
    """One view to make."""

    id: str
    """Id of its source, or its own number where it has none."""
    k: int
    """Which view of it."""
    seed: int
    """The only source of chance."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A generation. It can be pickled."""

    generator: str
    """Name of the generator, or `package.module:Class`."""
    config: Generator.Config
    """Its settings, a `Config` of its own."""
    root: Path
    """Directory of the store, which is there."""
    info: StoreInfo
    """What the store is to be; `settings` has `seed` and `batch_size`."""
    originals: Originals | None = None
    """Images to make views of."""

    def blocks(self, shard: int) -> list[range]:
        """Return the views that are made together, cut at the same numbers whatever is asked for.

        The first and the last may reach beyond the shard.
        """
        items, size = self.info.items_of(shard), int(self.info.settings["batch_size"])
        starts = range(items.start // size * size, items.stop, size)
        return [range(start, start + size) for start in starts]

    def task(self, item: int) -> Task:
        """Return what view `item` of the store is."""
        name = (f"{item:09d}", 0) if self.originals is None else self.originals.name_of(item)
        return Task(*name, seed=item_seed(self.info.settings["seed"], *name))


def facts_of(generator: Generator) -> Facts:
    """Return what a generator says of itself."""
    return Facts(
        size=generator.size,
        image_size=generator.image_size,
        batch_size=generator.batch_size,
        settings=dict(generator.settings),
        hardware=hardware(),
        notes=tuple(generator.notes),
    )


def hardware() -> str:
    """Return where this process computes, as far as it may decide the last bits of a sum."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"a CPU with {threads} {'thread' if threads == 1 else 'threads'}"


@dataclass(frozen=True)
class Piece:
    """Part `number` of `of` of a store: every `of`-th shard."""

    number: int = 1
    """1 to `of`."""
    of: int = 1
    """How many parts there are."""

    def of_these(self, shards: Iterable[int]) -> list[int]:
        """Return which shards belong to it."""
        return [shard for shard in shards if shard % self.of == self.number - 1]


def piece_of(text: str | None) -> Piece:
    """Read --shard i/n; None is the whole store."""
    if text is None:
        return Piece()
    number, slash, of = text.partition("/")
    if slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return Piece(int(number), int(of))
    last = int(of) if of.isdecimal() and int(of) else 8
    raise ConfigError(f"--shard: {text} is not possible; use 1/{last} to {last}/{last}")
