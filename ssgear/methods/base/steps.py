"""What a training step walks over, and what its losses are made of.

A *group* is what one optimiser (and, under DeepSpeed, one engine) steps; a *phase* says when a
group is stepped. One step of a run is one walk over the phases (docs/math.md 2 has the largest
case: critic, generator, encoder).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

LearningRateScale = Callable[[float], float]
"""Factor on the scheduled learning rate as a function of progress in [0, 1]."""


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
        compiled: Iterable[nn.Module] | None = None,
    ) -> None:
        """Gather `modules` under `name`.

        Args:
            name: Name of the group; phases step it by that.
            modules: Modules by name; parameters are named after them.
            optimizer: Optimiser of its own; by default the run's.
            scales: Prefix of parameter names -> learning-rate factor.
            constant: Prefixes of parameters that keep the peak learning rate from the first step to
                the last.
            compiled: What `--engine.compile` compiles, in place; by default the module `encoder`.
                Never what a penalty differentiates: compiled code has no second derivative.
        """
        super().__init__()
        self.name = name
        self.parts = nn.ModuleDict(dict(modules))
        self.optimizer = optimizer
        self.scales = dict(scales or {})
        self.constant = tuple(constant)
        usual = [module for part, module in modules.items() if part == "encoder"]
        self.compiled = tuple(usual if compiled is None else compiled)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function(*args)`."""
        return function(*args)

    def trains(self, module: nn.Module) -> bool:
        """Whether weights of a module are among those that are stepped."""
        weights = {id(weight) for weight in module.parameters()}
        return any(id(weight) in weights for weight in self.parameters())


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
    max_skipped: int = 0
    """Steps in a row with a gradient that is not finite that are skipped before the run ends."""


def one_phase(
    modules: Mapping[str, nn.Module], *, constant: Collection[str] = ()
) -> tuple[tuple[Group, ...], tuple[Phase, ...]]:
    """Return the groups and phases of a method that trains all its modules together.

    `constant` are prefixes of parameters whose learning rate does not change.
    """
    group = Group("encoder", modules, constant=constant)
    return (group,), (Phase(name="encoder", group="encoder"),)


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


@dataclass(frozen=True)
class Embeddings:
    """What a loss compares: a tensor [n, D] for each view."""

    online: tuple[Tensor, ...]
    """Those that the loss sends gradients into."""
    targets: tuple[Tensor, ...] = ()
    """Detached ones: projections taken as they are, those of a momentum copy."""

    @classmethod
    def cat(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """Return the rows of all parts, one part below the other."""
        return cls(
            tuple(map(torch.cat, zip(*(part.online for part in parts), strict=True))),
            tuple(map(torch.cat, zip(*(part.targets for part in parts), strict=True))),
        )


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
