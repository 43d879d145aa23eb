"""Optimisers by name, their parameter groups, the schedule of the learning rate, weight averages.

`build_optimizer` sorts parameters into groups (decayed or not, by learning-rate scale), in the
order in which they are named; `schedule` gives the factor of a step and `set_lr` writes it into the
groups. `move_average` and `replaced` are what every average of weights does. LARS is written here
(You et al. 2017, arXiv 1708.03888); the rest is torch's, with its `fused` kernels for whoever asks.
Those read weight and gradient as one flat array each, which is silently wrong where the two differ
in memory order (a channels-last convolution whose gradient came back from a flat bucket):
`align_gradients` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssgear.errors import ConfigError, did_you_mean

Group = dict[str, Any]
"""A group of parameters with its settings, as torch keeps it."""
Scale = Callable[[float], float]
"""Factor on the learning rate as a function of progress in [0, 1]."""
OPTIMIZERS = ("lars", "sgd", "adamw", "adam")


@torch.no_grad()
def move_average(average: Iterable[Tensor], weights: Iterable[Tensor], share: float) -> None:
    """Move averages, in their own type, towards weights: e <- (1 - share) e + share w."""
    moved = list(average)
    live = [weight.detach().to(e.dtype) for e, weight in zip(moved, weights, strict=True)]
    torch._foreach_lerp_(moved, live, share)


@contextmanager
def replaced(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Put values in the place of weights of the same names inside the block."""
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    _write(weights, values)
    try:
        yield
    finally:
        _write(weights, kept)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])


class Ema:
    """Average of the trained weights of a module, in float32, updated once per step really taken.

    Batch statistics stay the live module's own.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the weights as they are."""
        self.decay = decay
        self.weights = dict(module.named_parameters())
        self.average = {
            name: weight.detach().float().clone() for name, weight in self.weights.items()
        }

    def update(self) -> None:
        """Move the average towards the weights: e <- decay e + (1 - decay) w."""
        move_average(self.average.values(), self.weights.values(), 1 - self.decay)

    def applied(self) -> AbstractContextManager[None]:
        """Put the average in the weights' place inside the block."""
        return replaced(self.weights, self.average)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return self.average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take an average that `state_dict` returned."""
        for name, average in self.average.items():
            average.copy_(state[name])


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: momentum SGD with a trust ratio for every tensor.

    For a tensor w of two or more dimensions with gradient g (nesterov: no):
        ratio = eta |w| / (|g| + weight_decay |w| + eps)          1 where |w| or |g| is 0
        ratio = min(ratio / lr, 1)                                with `clip`: at most plain SGD
        buffer = momentum buffer + ratio (g + weight_decay w);    w -= lr buffer
    Tensors of 0 or 1 dimension (norms, biases, a temperature) take momentum SGD without decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[Group],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.02,
        clip: bool = True,
        eps: float = 1e-8,
    ) -> None:
        """Take parameters or groups of them; `eta` is the trust coefficient."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "eta": eta,
            "clip": clip,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; nothing is read back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            self._update(group, [p for p in weights if p.ndim > 1], adapt=True)
            self._update(group, [p for p in weights if p.ndim <= 1], adapt=False)
        return loss

    def _update(self, group: Group, weights: list[Tensor], *, adapt: bool) -> None:
        if not weights:
            return
        gradients = [cast(Tensor, p.grad) for p in weights]
        if adapt:
            gradients = _scaled_gradients(group, weights, gradients)
        buffers = [self._buffer(p) for p in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return cast(Tensor, state["momentum_buffer"])


def _scaled_gradients(group: Group, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Return ratio * (g + weight_decay * w) for each tensor."""
    w_norm = torch.stack(torch._foreach_norm(weights, 2.0, torch.float32))
    g_norm = torch.stack(torch._foreach_norm(gradients, 2.0, torch.float32))
    ratio = group["eta"] * w_norm / (g_norm + group["weight_decay"] * w_norm + group["eps"])
    if group["clip"]:
        ratio = (ratio / max(group["lr"], torch.finfo(torch.float32).tiny)).clamp(max=1.0)
    ratio = torch.where((w_norm > 0) & (g_norm > 0), ratio, 1.0)
    decayed = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
    torch._foreach_mul_(decayed, list(ratio.to(decayed[0].dtype).unbind()))
    return list(decayed)


def build_optimizer(
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float] | None = None,
    eta: float = 0.02,
    clip: bool = True,
    scales: Collection[str] = (),
    undecayed: Collection[str] = (),
    fused: bool = False,
) -> Optimizer:
    """Build lars, sgd, adamw or adam over the parameters that are trained.

    `fused` takes torch's kernel of one pass over weights and state, for gradients that are aligned.
    `momentum` is beta1 of adamw and adam unless `betas` is given; `eta` and `clip` are LARS's.
    `scales` are dotted prefixes of parameter names; a group stores the longest that fits as "scale"
    ("" for none), for `set_lr`. `undecayed` are names that do not decay, as a ViT asks for its
    position embedding.
    """
    groups = _parameter_groups(named_parameters, weight_decay, tuple(scales), undecayed)
    betas = betas or (momentum, 0.999)
    if name == "lars":
        return LARS(groups, lr=lr, momentum=momentum, eta=eta, clip=clip)
    how = {"foreach": not fused, "fused": fused}
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, **how)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, **how)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=betas, **how)
    raise ConfigError(
        f"--optim.name: unknown optimizer {name!r}{did_you_mean(name, OPTIMIZERS)}; "
        f"known: {', '.join(OPTIMIZERS)}"
    )


def align_gradients(weights: Iterable[Tensor]) -> None:
    """Give every gradient the memory order of its weight, as fused optimisers need it."""
    for weight in weights:
        gradient = weight.grad
        if gradient is not None and gradient.stride() != weight.stride():
            weight.grad = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _parameter_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    weight_decay: float,
    prefixes: tuple[str, ...],
    undecayed: Collection[str],
) -> list[Group]:
    """Sort parameters by (scale, decay); norms, biases and other 0-d, 1-d tensors do not decay."""
    sorted_into: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            key = (_scale_of(name, prefixes), parameter.ndim > 1 and name not in undecayed)
            sorted_into.setdefault(key, []).append(parameter)
    if not sorted_into:
        raise ConfigError("a group without a trained parameter has no optimizer")
    unused = set(prefixes) - {scale for scale, _ in sorted_into}
    if unused:
        raise ConfigError(
            f"learning-rate scale of {sorted(unused)[0]!r}: no parameter has that prefix"
        )
    return [
        {"params": params, "weight_decay": weight_decay if decay else 0.0, "scale": scale}
        for (scale, decay), params in sorted_into.items()
    ]


def _scale_of(name: str, prefixes: tuple[str, ...]) -> str:
    matching = [prefix for prefix in prefixes if f"{name}.".startswith(f"{prefix.rstrip('.')}.")]
    return max(matching, key=len, default="")


def schedule(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Return the factor of step 0, 1, ... on the peak learning rate, in [0, 1].

    Linear from 1 / warmup_steps to 1 over the first `warmup_steps`, then a half cosine that would
    reach 0 at `total_steps`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def set_lr(
    optimizer: Optimizer,
    base_lr: float,
    factor: float,
    progress: float,
    scales: Mapping[str, Scale] | None = None,
    constant: Collection[str] = (),
) -> None:
    """Write base_lr * factor * scale(progress) into each parameter group.

    Those of a prefix in `constant` get base_lr.
    """
    for group in optimizer.param_groups:
        name = group.get("scale", "")
        scale = (scales or {}).get(name)
        own = 1.0 if name in constant else factor
        group["lr"] = base_lr * own * (1.0 if scale is None else scale(progress))
