"""What every view generator is.

    class Name(Generator):
        class Config(Generator.Config): ...       # its own options, --like-this
        def generate(self, images, ids, seeds): ...

A generator is found by its file name in `ssgear/views/`; listing its options imports no torch. It
is called with blocks of the same size, cut at the same numbers, whatever is asked for: what it
makes for a row may depend on that row's image, id and seed only. It is built once in each worker
(views/jobs/worker.py), which may be another process than the command's, and talks through `notes`:
what it prints would spoil the progress bar.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
"""What JSON can say."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a generator made, row by row."""

    images: Tensor
    """[n, 3, H, W] uint8."""
    metadata: Sequence[Mapping[str, Json]]
    """What is known of each: plain JSON, a `label` where it has one."""
    failed: Sequence[str | None] = ()
    """Why a row is not to be stored, None where it is; empty: all are. Its seed, id and reason are
    recorded, its pixels and metadata are looked at by nobody."""
    upscaled: Sequence[Tensor | None] = ()
    """The source of each row, upscaled, uint8 [3, h, w]; empty: none is kept. Of several views of a
    source it is stored beside the first, whether that failed or not."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time that each stage took, for the progress bar and metrics.jsonl."""
    notes: Sequence[str] = ()
    """Lines for the user, such as a batch that was halved; each is told once in a generation."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all views of an image have in common."""

    metadata: Mapping[str, Json]
    """By the names in `Generator.shares`, as it stands in the json of each view."""
    failed: str | None = None
    """Why no view of the image can be made."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the views of some images share, row by row."""

    rows: Sequence[Shared]
    """One for each image."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time that each stage took."""
    notes: Sequence[str] = ()
    """Lines for the user."""


class Generator(ABC):
    """Makes images from noise, or from other images."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of a generator; subclasses add theirs."""

    image_size: int | None = None
    """Side in pixels of the images that it makes views of; None: it draws from noise alone."""
    size: int
    """Side of what it makes in pixels."""
    settings: Mapping[str, Json]
    """What decides the pixels beside seeds and images: plain JSON, a digest of the model too. A
    store is finished by the same settings only; mappings may be nested."""
    batch_size: int = 100
    """Rows of a block, where --batch-size says nothing. Every row of a block is made, also where a
    store ends within it: small where rows are dear."""
    shares: tuple[str, ...] = ()
    """Keys of the metadata that are the same for all views of an image and dear to find, a caption:
    where there are any, `study` finds them, and `more` makes further views by them. The first is
    there for every view."""
    notes: Sequence[str] = ()
    """Lines for the user about the building, such as a choice that fell back; each told once."""

    @abstractmethod
    def __init__(self, config: Config, device: torch.device) -> None:
        """Load the model."""

    @abstractmethod
    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Make a view of each image, or where there are none, an image for each id.

        Args:
            images: [n, 3, image_size, image_size] uint8, or None where `image_size` is.
            ids: Ids of the images; without images, the numbers of what is made.
            seeds: The only source of chance, one for each row (`item_seed`).
        """

    def study(self, images: Tensor) -> Study:
        """Find what views of each image share, exactly as `generate` does for the same images."""
        raise NotImplementedError(f"{type(self).__name__} shares nothing")

    def more(
        self, images: Tensor, shared: Sequence[Shared], ids: Sequence[str], seeds: Sequence[int]
    ) -> Views:
        """Make a view of each image as `generate` does, by what is known of it already."""
        raise NotImplementedError(f"{type(self).__name__} shares nothing")


def item_seed(seed: int, item: str, k: int = 0) -> int:
    """Return the seed of view `k` of an item in a store of that seed, in [0, 2^53).

    JSON keeps whole numbers exact up to there in every language.
    """
    from ssgear.kernels.philox import derive_key

    return derive_key(seed, "view", item, k) % 2**53
