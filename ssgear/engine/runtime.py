"""How a group's step is carried out.

The interface, and plain PyTorch (`ssgear.engine.deepspeed_runtime` is the other). The trainer calls
`forward`, `backward` and `step` and knows nothing of ranks or partitions. Gradients are averaged
over ranks in flat buckets after the last backward of a step; the DDP class breaks on several
forwards before one backward, on `autograd.grad` inside a loss and on frozen groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssgear.config.schema import OptimConfig
from ssgear.distributed import World
from ssgear.methods.base import Group, Method, OptimizerSpec, Phase
from ssgear.optim import align_gradients, build_optimizer, schedule, set_lr
from ssgear.storage.checkpoint import load_tensors, save_tensors

BUCKET_ELEMENTS = 8 << 20
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runtime(ABC):
    """Forward, backward and step of each group, and its part of a checkpoint."""

    name: str

    def __init__(
        self, method: Method, config: OptimConfig, world: World, *, bf16: bool = False
    ) -> None:
        """Keep the groups by name; `bf16` runs every forward under autocast."""
        self.groups = {group.name: group for group in method.groups}
        self.config = config
        self.world = world
        self.bf16 = bf16
        self.factor: Callable[..., float] = schedule
        self.last_lr: dict[str, float] = {}

    def forward(self, phase: Phase, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call `function(*args)` inside the phase's group, so that its hooks fire."""
        root = self.root(phase.group)
        with self.autocast(phase):
            result: T = root(function, *args)
        return result

    def autocast(self, phase: Phase) -> torch.autocast:
        """Return the precision of a phase's forwards as a context."""
        device = next(self.groups[phase.group].parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.bf16)

    @abstractmethod
    def root(self, group: str) -> Callable[..., Any]:
        """Return what a forward has to enter: the group itself, or the engine around it."""

    @abstractmethod
    def backward(self, phase: Phase, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradients of a loss.

        With `last` the step's gradients are complete and averaged over ranks.
        """

    @abstractmethod
    def step(self, phase: Phase) -> Tensor:
        """Step the group if its gradients are finite.

        Return a bool tensor that says so, equal on all ranks.
        """

    @abstractmethod
    def optimizer(self, group: str) -> torch.optim.Optimizer:
        """Return the optimiser whose learning rates the schedule sets."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write every group's weights and optimiser; called on all ranks."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote; called on all ranks."""

    @contextmanager
    def gathered(self, group: str) -> Iterator[None]:
        """Make the whole weights of a group readable on every rank inside the block."""
        yield

    def schedule(self, phase: Phase, step: int, total_steps: int, warmup_steps: int) -> None:
        """Set the learning rates of a phase's group for a step."""
        spec = self.groups[phase.group].optimizer
        factor = self.factor(step, total_steps=total_steps, warmup_steps=warmup_steps)
        if spec is not None and spec.constant:
            factor = 1.0
        base = self.config.lr if spec is None else spec.lr
        group = self.groups[phase.group]
        progress = step / max(total_steps, 1)
        optimizer = self.optimizer(phase.group)
        set_lr(optimizer, base, factor, progress, scales=group.scales, constant=group.constant)
        self.last_lr[phase.group] = base * factor


def trained(group: Group) -> list[tuple[str, nn.Parameter]]:
    """Return the trained parameters of a group; names begin with that of their module."""
    named = group.named_parameters()
    return [(name.removeprefix("parts."), weight) for name, weight in named if weight.requires_grad]


def undecayed(group: Group) -> set[str]:
    """Return the parameters that a network asks not to decay (timm's `no_weight_decay`)."""
    return {
        f"{name}.{own}".removeprefix("parts.")
        for name, module in group.named_modules()
        if hasattr(module, "no_weight_decay")
        for own in module.no_weight_decay()
    }


def optimizer_of(
    group: Group,
    config: OptimConfig,
    *,
    betas: tuple[float, float] | None = None,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Build a group's optimiser: its own, or the run's; `betas` where a ds.json has them."""
    spec = group.optimizer or OptimizerSpec(
        name=config.name,
        lr=config.lr,
        betas=betas or (config.momentum, 0.999),
        weight_decay=config.weight_decay,
    )
    return build_optimizer(
        trained(group),
        name=spec.name,
        lr=spec.lr,
        weight_decay=spec.weight_decay,
        momentum=spec.betas[0],
        betas=spec.betas,
        eta=config.lars_eta,
        clip=config.lars_clip,
        scales=(*group.scales, *group.constant),
        undecayed=undecayed(group),
        fused=fused,
    )


class TorchRuntime(Runtime):
    """Plain PyTorch in one process or several."""

    name = "torch"

    def __init__(
        self, method: Method, config: OptimConfig, world: World, *, bf16: bool = False
    ) -> None:
        """Build one optimiser per group and give every rank the weights of rank 0."""
        super().__init__(method, config, world, bf16=bf16)
        self.optimizers = {
            group.name: optimizer_of(group, config, fused=True) for group in method.groups
        }
        self._weights = {group.name: [p for _, p in trained(group)] for group in method.groups}
        if world.size > 1:
            for tensor in method.state_dict().values():
                whole = tensor.contiguous()  # collectives refuse channels-last weights
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def root(self, group: str) -> Callable[..., Any]:
        """Return the group itself."""
        return self.groups[group]

    def backward(self, phase: Phase, loss: Tensor, *, last: bool = True) -> None:
        """Accumulate gradients; average them over ranks after the last one.

        A missing one counts as zero, in one process as in several: momentum and decay go on alike.
        """
        loss.backward()  # type: ignore[no-untyped-call]
        if not last:
            return
        fill_gradients(self._weights[phase.group])
        if self.world.size > 1:
            average_gradients(self._weights[phase.group], self.world.size)

    def step(self, phase: Phase) -> Tensor:
        """Clip and step; a gradient that is not finite moves no weight."""
        weights = self._weights[phase.group]
        align_gradients(weights)
        gradients = [p.grad for p in weights if p.grad is not None]
        optimizer = self.optimizers[phase.group]
        # the norm that clips also finds NaN and infinity; the average made it the same on all ranks
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        if self.config.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.clip, norm)
        if finite.device.type == "cpu":
            if bool(finite):
                optimizer.step()
        else:
            # no host synchronisation: zeros instead of a bad gradient; the trainer ends the run at
            # its next reading
            for gradient in gradients:
                torch.where(finite, gradient, torch.zeros_like(gradient), out=gradient)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return finite

    def optimizer(self, group: str) -> torch.optim.Optimizer:
        """Return the group's optimiser."""
        return self.optimizers[group]

    def save(self, folder: Path) -> None:
        """Write one file per group; the ranks hold the same weights, so rank 0 writes."""
        if not self.world.is_main:
            return
        for name, group in self.groups.items():
            state = {"weights": group.state_dict(), "optimizer": self.optimizers[name].state_dict()}
            save_tensors(folder / f"group-{name}.pt", state)

    def load(self, folder: Path) -> None:
        """Read every group's file."""
        for name, group in self.groups.items():
            state = load_tensors(folder / f"group-{name}.pt")
            group.load_state_dict(state["weights"])
            self.optimizers[name].load_state_dict(state["optimizer"])


def fill_gradients(weights: list[nn.Parameter]) -> None:
    """Give zeros to weights that a loss did not reach.

    Torch's fused SGD cannot begin with some weights of a group and take others in later.
    """
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def average_gradients(weights: list[nn.Parameter], world_size: int) -> None:
    """Replace gradients by their mean over ranks, in flat buckets of one dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for weight in weights:
        assert weight.grad is not None
        by_dtype.setdefault(weight.grad.dtype, []).append(weight.grad)
    for gradients in by_dtype.values():
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= world_size
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel()
        if size >= BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
