"""The contract: what every training method is, and when each part of it is called.

The engine knows methods only through this package. A method is found by its file name in
`ssgear/methods/`; CONTRIBUTING.md has one of forty lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch.distributed as dist
from torch import Tensor, nn

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.base.card import Card
from ssgear.methods.base.generator import GeneratorSide
from ssgear.methods.base.pretext import Facts, Pretext
from ssgear.methods.base.steps import Embeddings, Group, LossTerms, Phase

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

Extract = Callable[[], Tensor]
"""Features [N, F] of every training image by the encoder as it is now, on this rank's device."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs of the engine with some settings."""

    whole_batch: bool = False
    """Whether `loss` is more than `loss_of(embed(...))`, or `embed` has statistics over the batch:
    gradient caching would not be exact."""
    second_derivatives: bool = False
    """Whether a loss differentiates a gradient."""
    whole_weights: str | None = None
    """What follows the weights in buffers, which must be whole for that ("momentum encoder")."""
    images: bool = False
    """Whether `Batch.images` and `Batch.fetch` are filled."""


class Method(nn.Module):
    """A training method. Subclasses set `groups` and `phases`, and write `embed` and `loss_of`.

    In the order of calling, all but `embed` and `loss_of` as a method likes it:

    1. `Config`: from the command line; `__post_init__` refuses what defines no loss.
    2. `needs(config)`: before anything is read.
    3. `build_pretext(config)`: the pretext then selects the images and makes the training set.
    4. `build(config, encoder, facts)`: sets `groups`, `phases`, `generator`.
    5. `view_specs(named)`: the views that the loader makes of each image.
    6. `after_load()`: only in a run that is resumed.
    7. Every epoch `before_epoch`; every step, for each phase that is due, `loss` (which calls
       `embed` and `loss_of`; under gradient caching these are called alone) and, once the step is
       taken, `after_step`.
    8. Every few epochs `health_embeddings` and `generator.samples`, in evaluation mode.
    9. At the end `generator.save`, and the figures and texts of `card`.

    `config`, `encoder` and `process_group` (None in one process) are kept for all of these.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of a method; fields appear as `--method.FIELD`."""

    card: Card = Card()
    """What people are told of it; an instance may set one of its own."""
    groups: tuple[Group, ...]
    """What is trained, by whom."""
    phases: tuple[Phase, ...]
    """When each group is stepped."""
    pretext: Pretext | None = None
    """The task that is made of the images, where there is one."""
    generator: GeneratorSide | None = None
    """The generator that is trained, where there is one."""

    def __init__(self, config: Any, encoder: Encoder) -> None:
        """Keep the settings and the encoder."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.process_group: dist.ProcessGroup | None = (
            dist.group.WORLD if dist.is_initialized() else None
        )

    @classmethod
    def needs(cls, config: Any) -> Needs:
        """Return what the engine has to do or to leave with these settings; usually nothing."""
        return Needs()

    @classmethod
    def build_pretext(cls, config: Any) -> Pretext | None:
        """Return the task that is made of the images; None: the run trains on them as they are."""
        return None

    @classmethod
    def build(cls, config: Any, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run; most need no facts of it."""
        method = cls(config, encoder)
        method.pretext = facts.pretext
        return method

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return the augmentation of each view that the method takes; two by default.

        `named` is the set of `--data.augmentation`: one specification that any number of views
        share, or one for each (`augment.spec.spread`).
        """
        return spread(named, 2)

    def before_epoch(self, progress: float, extract: Extract) -> None:
        """Fill buffers that need features of the whole set (neighbour tables)."""

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return the embeddings of the views.

        Row by row, with no side effect but batch-norm statistics.
        """
        raise NotImplementedError

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the loss of embeddings; on the device, without a host synchronisation."""
        raise NotImplementedError

    def loss(self, phase: Phase, batch: Batch) -> LossTerms:
        """Return the loss of a batch."""
        return self.loss_of(phase, self.embed(phase, batch), batch)

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Update buffers (momentum copies, queues, controllers) after a step that was really taken.

        Never weights.
        """

    def after_load(self) -> None:
        """Refuse a checkpoint, once its buffers are in place, that does not fit the data."""

    def health_embeddings(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return one [n, D] per view, of which alignment and uniformity are measured.

        What the loss sees by default; a method whose loss sees class scores returns features.
        """
        z = self.embed(phase, batch)
        return (*z.online, *z.targets)


def check_groups(method: Method) -> None:
    """Refuse groups that overlap or leave a parameter out, and phases of unknown groups."""
    name = type(method).__name__
    owners: dict[int, str] = {}
    for group in method.groups:
        for parameter, weight in group.named_parameters():
            if id(weight) in owners:
                raise ConfigError(
                    f"{name}: {parameter} is in groups {owners[id(weight)]} and {group.name}"
                )
            owners[id(weight)] = group.name
    for parameter, weight in method.named_parameters():
        if weight.requires_grad and id(weight) not in owners:
            raise ConfigError(
                f"{name}: parameter {parameter} is in no group and would never be trained"
            )
    for phase in method.phases:
        if phase.group not in {group.name for group in method.groups}:
            raise ConfigError(f"{name}: phase {phase.name} steps unknown group {phase.group}")


def trains_encoder(method: Method) -> bool:
    """Whether the encoder is trained, so that its figures mean anything."""
    return any(group.trains(method.encoder) for group in method.groups)


def views_seen(method: Method, batch: Batch) -> tuple[Tensor, ...]:
    """Return the images that the encoder is shown of a batch."""
    return tuple(batch.views) if method.pretext is None else method.pretext.seen(batch)
