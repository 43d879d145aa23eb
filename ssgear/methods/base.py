"""What every training method is.

Modules in groups, phases that step them, and a loss for each phase. The engine knows methods only
through this file. A *group* is what one optimiser (and, under DeepSpeed, one engine) steps; a
*phase* says when a group is stepped. One step of a run is one walk over the phases (docs/math.md 2
has the largest case: critic, generator, encoder). A method is found by its file name in
`ssgear/methods/`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch.distributed as dist
from torch import Tensor, nn

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError

if TYPE_CHECKING:
    from ssgear.data.sources import Source
    from ssgear.models.encoders import Encoder

LearningRateScale = Callable[[float], float]
"""Factor on the scheduled learning rate as a function of progress in [0, 1]."""
Extract = Callable[[], Tensor]
"""Features [N, F] of every training image by the encoder as it is now, on this rank's device."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a method may know of the run before it is built."""

    augmentation: tuple[AugmentSpec, ...]
    """The set of views that `--data.augmentation` named."""
    num_images: int
    """Images to train on; a few fewer are left where some cannot be read."""
    num_classes: int | None = None
    """Classes of their labels, None where there are no labels."""
    epochs: int = 1
    """Passes over the images."""
    batch_size: int = 1
    """Images of one step over all ranks."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """Optimiser of a group that does not take the run's own (`--optim.*`)."""

    name: str
    """lars, sgd, adamw or adam."""
    lr: float
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates; the first is the momentum of sgd and lars."""
    weight_decay: float = 0.0
    """Decoupled for adamw; norms and biases are left out."""
    constant: bool = False
    """Keep the learning rate constant instead of warm-up and cosine."""


class Group(nn.Module):
    """Modules that one optimiser steps.

    Calling it runs a function inside, so that module hooks of an engine fire.
    """

    def __init__(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        *,
        optimizer: OptimizerSpec | None = None,
        scales: Mapping[str, LearningRateScale] | None = None,
        constant: Collection[str] = (),
    ) -> None:
        """Gather `modules` under `name`.

        `scales` maps a prefix of parameter names to a learning-rate factor; parameters with a
        prefix in `constant` keep the peak learning rate from the first step to the last.
        """
        super().__init__()
        self.name = name
        self.parts = nn.ModuleDict(dict(modules))
        self.optimizer = optimizer
        self.scales = dict(scales or {})
        self.constant = tuple(constant)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function(*args)`."""
        return function(*args)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimiser step of one group within a training step."""

    name: str
    """Name in logs and in the key of every random draw."""
    group: str
    """Group that is stepped; only its parameters get gradients."""
    every: int = 1
    """The phase runs at steps that are multiples of this."""
    repeat: int = 1
    """Optimiser steps in a row; those after the first draw images from a stream of their own."""
    after: float = 0.0
    """Share of the run after which the phase begins."""
    ema: float = 0.0
    """Decay of an exponential moving average of the group's weights, kept by the engine; 0 keeps
    none."""


@dataclass
class LossTerms:
    """A loss and what else came of computing it. Everything stays on the device."""

    total: Tensor
    """Scalar float32 to differentiate: this rank's share, whose mean over ranks is the loss of the
    global batch."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Named detached scalars for the log."""
    carry: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors that `after_step` needs (new queue rows, say)."""


class Method(nn.Module):
    """A training method.

    Subclasses set `groups` and `phases` in `__init__` and write `embed` and `loss_of`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of a method; fields appear as `--method.FIELD`."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    smallest: ClassVar[tuple[str, ...]] = ()
    """Options over the quick preset with which a step is cheap: what the contract test runs."""
    cacheable: ClassVar[bool] = True
    """Whether `loss` is `loss_of(embed(...))` and nothing else, so that gradient caching is
    exact."""
    has_momentum_copy: ClassVar[bool] = False
    """Whether buffers follow the weights after each step, which must be whole for that."""
    has_penalty: ClassVar[bool] = False
    """Whether a loss differentiates a gradient."""
    collapse_hint: str = "try a lower --optim.lr or a longer --optim.warmup-epochs"
    """What a run is told where its features collapse: the method's usual cause, what to try."""
    reads_images: ClassVar[bool] = False
    """Whether `wrap_source` reads images: files that cannot be read are found before it does."""
    needs_images: ClassVar[bool] = False
    """Whether `Batch.images` is filled."""
    generates: bool = False
    """Whether a generator is trained, so that `samples` returns images."""
    pairs_with: Literal["nothing", "real", "synthetic"] = "nothing"
    """Positive of a synthetic image in the SSL losses: the real image of its row, another view of
    itself; nothing where no SSL loss sees synthetic images."""
    trains_encoder: bool = True
    """Whether the encoder is trained, so that its figures mean anything."""
    final: ClassVar[tuple[str, ...]] = ()
    """Protocols of the run's final figures beside linear and knn (`evaluate --protocol`)."""
    judged_by: str = ""
    """Figure of those that tells whether training helped; by default the linear probe."""
    aim: ClassVar[str] = "Training pulls the features of one image's views together."
    """What training does with the views, a sentence for the report."""
    max_skipped: int = 0
    """Steps in a row with a gradient that is not finite that are skipped before the run ends."""

    groups: tuple[Group, ...]
    phases: tuple[Phase, ...]

    def __init__(self, config: Any, encoder: Encoder) -> None:
        """Keep the settings and the encoder; `process_group` is None in one process."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.process_group: dist.ProcessGroup | None = (
            dist.group.WORLD if dist.is_initialized() else None
        )

    @classmethod
    def build(cls, config: Any, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run; most need no facts of it."""
        return cls(config, encoder)

    @classmethod
    def penalises(cls, config: Any) -> bool:
        """Whether a loss of these settings differentiates a gradient."""
        return cls.has_penalty

    @classmethod
    def follower(cls, config: Any) -> str | None:
        """Name what of these settings follows the weights in buffers; None: nothing does."""
        return "momentum encoder" if cls.has_momentum_copy else None

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return the augmentation of each view that the method takes; two by default.

        `named` is the set of `--data.augmentation`: one specification that any number of views
        share, or one for each (`augment_spec.spread`).
        """
        return spread(named, 2)

    @classmethod
    def select(cls, config: Any, source: Source) -> Source:
        """Return the images, of training or of test, that the method is about; all by default.

        `config` is the method's own.
        """
        return source

    def wrap_source(self, source: Source) -> Source:
        """Return the source to train on: pairs, patches, surrogate labels.

        The same one by default.
        """
        return source

    def before_epoch(self, progress: float, extract: Extract) -> None:
        """Fill buffers that need features of the whole set (neighbour tables).

        Nothing by default.
        """

    def embed(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return one [n, D] embedding per view; more may follow, such as those of a momentum copy.

        Row by row, with no side effect but batch-norm statistics.
        """
        raise NotImplementedError

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the images that the encoder is shown of a batch; the views by default.

        A method that makes more of its views than the loader does (turns, patches) does it here,
        and the report shows it.
        """
        return tuple(batch.views)

    def compared(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return one [n, D] per view, of which alignment and uniformity are measured.

        What the loss sees by default; a method whose loss sees class scores returns features.
        """
        return self.embed(phase, batch)

    def loss_of(self, phase: Phase, zs: tuple[Tensor, ...], batch: Batch) -> LossTerms:
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
        """Be called once a checkpoint's buffers are in place; refuse what does not fit the data."""

    def compiled(self) -> tuple[nn.Module, ...]:
        """Return what `--engine.compile` compiles, in place; never what a penalty differentiates.

        Compiled code has no second derivative.
        """
        return (self.encoder,)

    def samples(self, images: Tensor, labels: Tensor | None, *, seed: int) -> Tensor | None:
        """Return synthetic images for real ones: uint8 [N, 3, R, R] of uint8 [N, 3, H, W].

        Row i is conditioned on image i or its label where the generator is conditioned at all, and
        made of noise of (seed, i). None: the method has no generator.
        """
        return None

    def save_generator(self, directory: Path, classes: Sequence[str] | None) -> None:
        """Write the generator as `python -m ssgear.generate` reads it; nothing without one."""

    def group_named(self, name: str) -> Group:
        """Return the group of that name."""
        return next(group for group in self.groups if group.name == name)

    def check(self) -> None:
        """Refuse groups that overlap or leave a parameter out, and phases of unknown groups."""
        seen: dict[int, str] = {}
        for group in self.groups:
            for name, parameter in group.named_parameters():
                if id(parameter) in seen:
                    raise ConfigError(
                        f"{type(self).__name__}: {name} is in groups {seen[id(parameter)]} "
                        f"and {group.name}"
                    )
                seen[id(parameter)] = group.name
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                raise ConfigError(
                    f"{type(self).__name__}: parameter {name} is in no group "
                    "and would never be trained"
                )
        names = {group.name for group in self.groups}
        for phase in self.phases:
            if phase.group not in names:
                raise ConfigError(
                    f"{type(self).__name__}: phase {phase.name} steps unknown group {phase.group}"
                )


def steps_of(
    phases: tuple[Phase, ...], step: int, progress: float = 1.0
) -> list[tuple[Phase, int]]:
    """Return the (phase, repeat) pairs that step number `step` walks over, in order."""
    return [
        (phase, repeat)
        for phase in phases
        if step % phase.every == 0 and progress >= phase.after
        for repeat in range(phase.repeat)
    ]
