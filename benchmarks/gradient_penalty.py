"""The gradient penalty's own passes as workloads: interpolation, norms, penalty and its gradient.

No critic takes part: its time is not ours. The fewest bytes are 3 images for the mixture and 3 for
penalty and gradient; the eager forms move 13 to 15.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.common.machine import Cost
from benchmarks.common.peers import compile_or_say
from benchmarks.common.timing import Function
from benchmarks.common.workloads import Workload, largest, require
from ssgear.kernels.forms import names_of
from ssgear.kernels.gradient_penalty import CASES, Case
from ssgear.kernels.gradient_penalty.forms import FORMS
from ssgear.kernels.gradient_penalty.pieces import interpolate, sample_norm_penalty

SIZES = {
    "cpu": ((64, 3, 32, 32), (64, 3, 64, 64), (16, 3, 128, 128)),
    "cuda": ((64, 3, 32, 32), (256, 3, 64, 64), (256, 3, 128, 128)),
}
PASSES = 6


def forms(device: str, dtype: torch.dtype) -> list[str]:
    """Return the fused implementations that work here, or the reference where there is none."""
    example = torch.empty(1, 1, device=device, dtype=dtype)
    *fast, reference = names_of(FORMS, example)
    return fast or [reference]


def check_gradient_penalty(device: str) -> int:
    """Hold the fused forms to the reference in float64 on `CASES`; return the number of results."""
    names = forms(device, torch.float32)
    for case in CASES:
        real, fake, eps, grad = case.make(torch.float32, device)
        right = interpolate(real.double(), fake.double(), eps, impl="reference")
        truth = slope(grad.double(), case.target, "reference")
        for name in names:
            mixed = interpolate(real, fake, eps, impl=name)  # type: ignore[arg-type]
            require(f"{name} {case}", mixed.double(), right, 1e-6 * largest(right))
            found = slope(grad, case.target, name)
            require(f"{name} {case}", found.double(), truth, 1e-6 * largest(truth))
    return len(CASES) * len(names)


def slope(grad: Tensor, target: float, impl: str) -> Tensor:
    """Return the gradient of the penalty with respect to the critic's gradient."""
    leaf = grad.detach().requires_grad_()
    penalty = sample_norm_penalty(leaf, target, impl=impl)  # type: ignore[arg-type]
    return torch.autograd.grad(penalty, leaf)[0]


def mix(real: Tensor, fake: Tensor) -> Tensor:
    """Return mixed images, as most code bases write them."""
    eps = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device)
    return eps * real + (1 - eps) * fake


def penalty_of(norm_N: Tensor) -> Tensor:
    """Return the penalty, as most code bases write it."""
    return ((norm_N - 1) ** 2).mean()


def norms(grad: Tensor) -> Tensor:
    """Return the norm of each sample's gradient."""
    return grad.flatten(1).norm(2, dim=1)


def mixed_and_penalty(grad: Tensor, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return mixed images and penalty, for torch.compile."""
    return mix(real, fake), penalty_of(norms(grad))


def gradient_penalty_workload(device: str, size: tuple[int, ...]) -> Workload:
    """Return one size: our forms, and the two eager ones in use, and one compiled."""
    real, fake, _, grad = Case(shape=size).make(torch.float32, device)

    def ours(name: str) -> Function:
        def passes(leaf: Tensor) -> Tensor:
            interpolate(real, fake, impl=name)  # type: ignore[arg-type]
            return sample_norm_penalty(leaf, impl=name)  # type: ignore[arg-type]

        return passes

    def by_norm(leaf: Tensor) -> Tensor:
        mix(real, fake)
        return penalty_of(norms(leaf))

    def by_root(leaf: Tensor) -> Tensor:
        mix(real, fake)
        return penalty_of((leaf.flatten(1).square().sum(1) + 1e-12).sqrt())

    names = forms(device, torch.float32)
    contenders: dict[str, Function] = {
        **{name: ours(name) for name in names},
        "eager": by_norm,
        "eager, root": by_root,
    }
    compiled = compile_or_say(mixed_and_penalty, grad, real, fake)
    if compiled is not None:
        contenders["torch.compile"] = lambda leaf: compiled(leaf, real, fake)[1]
    return Workload(
        kernel="gradient_penalty",
        size=" x ".join(map(str, size)),
        dtype=torch.float32,
        inputs=(grad,),
        ours=names[0],
        contenders=contenders,
        truth=lambda leaf: penalty_of(norms(leaf)),
        cost=Cost(bytes=float(PASSES * math.prod(size) * real.itemsize)),
    )
