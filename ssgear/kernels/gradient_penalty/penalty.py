"""The gradient penalty of Wasserstein critics (Gulrajani et al. 2017, arXiv 1704.00028), and R1.

    P = 1/N sum_i (||d critic(x_i) / d x_i|| - target)^2                        (docs/math.md 2)
    x = eps real + (1 - eps) fake, or fake, or real                             (at="mixed" ...)

Roth et al. 2017 and Mescheder et al. 2018 (arXiv 1801.04406) have target 0: at="real" is R1,
at="generated" R2. The critic is differentiated by autograd; what stands around it is fused
(pieces.py). `CASES` are the inputs of tests/kernels/gradient_penalty/test_penalty.py
and of the benchmark. Shapes: N samples of any shape.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, did_you_mean
from ssgear.kernels import checks
from ssgear.kernels.forms import Implementation
from ssgear.kernels.gradient_penalty.forms import choose_form
from ssgear.kernels.gradient_penalty.pieces import (
    check_eps,
    check_images,
    check_target,
    interpolate,
    sample_norm_penalty,
)

Critic = Callable[..., Tensor]
Place = Literal["mixed", "generated", "real"]


def gradient_penalty(
    critic: Critic,
    real: Tensor | None,
    fake: Tensor | None,
    *,
    condition: Any = None,
    at: Place = "mixed",
    target: float = 1.0,
    eps: Tensor | float | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Return the mean of (||grad|| - target)^2 over samples, a float32 scalar without any weight.

    WGAN-GP adds 10 times this, R1 gamma / 2 times this (target=0, at="real"). Gradients reach what
    the critic is made of, and the images if they require one: pass `fake.detach()` to train the
    critic, `fake` itself to train the generator on the penalty. Where a sample's gradient is zero,
    its norm counts as constant.

    A critic under torch.compile runs as it is written for the length of this call: compiled code
    has no second derivative. Called inside compiled code, this function is left out of it; with
    torch.compile(fullgraph=True), which allows no such gap, that is an error.

    Args:
        critic: Called as critic(x), or critic(x, condition); returns scores [N] or [N, 1].
        real: Images [N, ...], floating-point; may be None where at="generated".
        fake: Images of the same shape, type and device; may be None where at="real".
        condition: What the critic is conditioned on; None: it is not.
        at: Where the norm is taken: mixed (between real and fake), generated, real.
        target: Norm that costs nothing, at least 0.
        eps: For at="mixed", weights of `real` [N] or a number, in [0, 1]; None draws them, see
            `interpolate`.
        impl: reference (plain PyTorch), cpp (CPU), triton (GPU), or auto: the fastest that can.

    Raises:
        ArgumentError: In one line, for arguments that do not fit together, for scores of another
            shape, and for a critic through which autograd does not see the images.
    """
    if torch.compiler.is_compiling():
        outside = torch.compiler.disable(gradient_penalty)  # type: ignore[no-untyped-call]
        options = {"condition": condition, "at": at, "target": target, "eps": eps, "impl": impl}
        penalty: Tensor = outside(critic, real, fake, **options)
        return penalty
    _check(critic, real, fake, at, eps, impl)
    check_target("gradient_penalty", target)
    x = _points(real, fake, at, eps, impl)
    with _uncompiled():
        version = x._version
        scores = critic(x) if condition is None else critic(x, condition)
        if x._version != version:
            raise ArgumentError(
                "gradient_penalty: critic changed its input in place, and what it is now is not "
                "what the gradient is taken at; write x = x - 0.5 for x.sub_(0.5)"
            )
        _check_scores(scores, x)
        (grad,) = torch.autograd.grad(
            scores, x, torch.ones_like(scores), create_graph=True, allow_unused=True
        )
    if grad is None:
        raise _blind("its scores do not depend on it")
    return sample_norm_penalty(grad, target, impl=impl).float()


def _points(
    real: Tensor | None,
    fake: Tensor | None,
    at: Place,
    eps: Tensor | float | None,
    impl: Implementation,
) -> Tensor:
    """Return the images that the critic is differentiated at."""
    if at == "mixed":
        assert real is not None and fake is not None
        x = interpolate(real, fake, eps, impl=impl)
    else:
        images = fake if at == "generated" else real
        assert images is not None
        x = images if images.requires_grad else _leaf(images)
    return x if x.requires_grad else x.requires_grad_()


def _leaf(images: Tensor) -> Tensor:
    return images.clone() if images.is_inference() else images.detach()


def _uncompiled() -> contextlib.AbstractContextManager[None]:
    """Run what torch.compile made as it was written; without dynamo nothing was compiled."""
    if "torch._dynamo" not in sys.modules:  # it takes seconds to import
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _check(
    critic: Critic,
    real: Tensor | None,
    fake: Tensor | None,
    at: Place,
    eps: Tensor | float | None,
    impl: Implementation,
) -> None:
    places = get_args(Place)
    if not isinstance(at, str) or at not in places:
        shown, hint = checks.shown(at), did_you_mean(str(at), places)
        raise ArgumentError(
            f"gradient_penalty: unknown at={shown}{hint}; use one of {', '.join(places)}"
        )
    if not callable(critic):
        raise ArgumentError(
            f"gradient_penalty: critic is a {type(critic).__name__}; use a function or module"
        )
    if not torch.is_grad_enabled():
        raise ArgumentError(
            "gradient_penalty: called under torch.no_grad or inference_mode; it differentiates the "
            "critic, so call it under torch.enable_grad"
        )
    needless = {"generated": "real", "real": "fake"}.get(at)
    given = {"real": real, "fake": fake}
    images = {name: batch for name, batch in given.items() if name != needless or batch is not None}
    check_images("gradient_penalty", **images)  # type: ignore[arg-type]
    if at != "mixed" and eps is not None:
        raise ArgumentError(f"gradient_penalty: eps is given and at={at!r} mixes nothing; drop it")
    first = next(batch for batch in images.values() if batch is not None)
    check_eps("gradient_penalty", eps, first)
    choose_form("gradient_penalty", impl, first)


def _check_scores(scores: Tensor, x: Tensor) -> None:
    if not isinstance(scores, Tensor):
        raise ArgumentError(
            f"gradient_penalty: critic returned a {type(scores).__name__}; use a tensor of scores"
        )
    if not checks.is_float_tensor(scores):
        raise ArgumentError(
            f"gradient_penalty: critic returned {checks.kind(scores)}; use floating-point scores, "
            "dense and of 16 bits or more"
        )
    if scores.shape not in ((len(x),), (len(x), 1)):
        raise ArgumentError(
            f"gradient_penalty: critic returned shape {list(scores.shape)} for {len(x)} samples; "
            f"use [{len(x)}] or [{len(x)}, 1], one score each"
        )
    if not scores.requires_grad:
        raise _blind("its scores have no graph")


def _blind(why: str) -> ArgumentError:
    return ArgumentError(
        f"gradient_penalty: critic cannot be differentiated at its input: {why}; "
        "look for no_grad, detach or a constant in it"
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shape and settings of one input."""

    shape: tuple[int, ...]
    """N and the rest."""
    target: float = 1.0
    """Norm that costs nothing."""
    scale: float = 1.0
    """Size of what stands for a gradient; its norms are near this."""
    zero: bool = False
    """Whether the gradient of the first sample is zero."""
    channels_last: bool = False
    """Whether images and gradients lie in memory with channels last."""

    def make(
        self, dtype: torch.dtype, device: str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return real, fake, eps and a gradient, functions of the seed; eps has 0 and 1."""
        generator = torch.Generator().manual_seed(seed + sum(self.shape))
        real, fake, grad = torch.randn(3, *self.shape, generator=generator).to(device, dtype)
        eps = torch.rand(self.shape[0], generator=generator)
        eps[1::4], eps[2::4] = 0.0, 1.0
        grad = grad * (self.scale / math.prod(self.shape[1:]) ** 0.5)
        if self.zero:
            grad[0] = 0
        if self.channels_last:
            real, fake, grad = (
                part.contiguous(memory_format=torch.channels_last) for part in (real, fake, grad)
            )
        return real, fake, eps.to(device), grad


CASES = (
    Case(shape=(1, 1)),
    Case(shape=(1, 7), zero=True),
    Case(shape=(5, 1), target=0.0, zero=True),
    Case(shape=(13, 33)),
    Case(shape=(3, 20011), target=0.5),
    Case(shape=(1, 3, 129, 131)),
    Case(shape=(7, 3, 9, 11), target=0.0),
    Case(shape=(9, 5, 7, 3), channels_last=True),
    Case(shape=(6, 2, 3, 5, 7), scale=30.0),
    Case(shape=(4, 3, 17, 17), scale=1e-24, target=0.0),
    Case(shape=(4, 3, 17, 17), scale=1e24, target=3.0),
    Case(shape=(64, 3, 32, 32)),
)
"""One sample, one element, odd sizes, several pieces, norms whose squares float32 does not hold."""
