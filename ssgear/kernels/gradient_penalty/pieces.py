"""Pieces of a gradient penalty (docs/math.md 2): mixed images, the penalty of given gradients.

    mixed_i = eps_i real_i + (1 - eps_i) fake_i
    P       = 1/N sum_i (n_i - t)^2,  n_i = ||g_i||  over all elements of sample i
    dP/dg_i = c_i g_i,  c_i = 2/N (1 - t / n_i)

Where n_i = 0, 1 / n_i is taken as 0: the norm has slope and curvature 0 there, n_i^2 keeps its own.
Where n_i is NaN or infinite, so is P, and every derivative at sample i is NaN.
`reference` is the formula by autograd. The fused forms (forms.py) go six times over
the images, eager PyTorch up to fourteen times; first and second derivative are written out.
Shapes: N samples of any shape.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks, philox
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.forms import Implementation
from ssgear.kernels.gradient_penalty.forms import choose_form, dense, passes, same_order
from ssgear.kernels.transforms import Context


def interpolate(
    real: Tensor,
    fake: Tensor,
    eps: Tensor | float | None = None,
    *,
    out: Tensor | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Return eps real + (1 - eps) fake in the type of `real`, computed in float32 at least.

    Gradients reach `real` and `fake`, to any order; eps is a constant.

    Args:
        real: Images [N, ...], floating-point.
        fake: Images of the same shape, type and device.
        eps: Weights of `real` in [0, 1]: float32 [N], or a number for all samples, or None: drawn
            uniformly for each sample by Philox from (key, position), the key by one `torch.randint`
            from the CPU's default generator. `torch.manual_seed` repeats them, the same on every
            device and in every implementation.
        out: Contiguous and shaped like `real`, such as a slice of a critic's batch; filled and
            returned. As everywhere in PyTorch, there is no gradient then.
        impl: As in `gradient_penalty`.

    Raises:
        ArgumentError: In one line, for arguments that do not fit together.
    """
    check_images("interpolate", real=real, fake=fake)
    chosen = choose_form("interpolate", impl, real, fake, eps)
    eps_N = check_eps("interpolate", eps, real)
    wants_grad = torch.is_grad_enabled() and (real.requires_grad or fake.requires_grad)
    if out is not None:
        _check_out(out, real, wants_grad)
    key = None
    if eps_N is None:
        key = int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))
    if chosen == "reference":
        mixed = _interpolate_reference(real, fake, eps_N, key)
        return mixed if out is None else out.copy_(mixed)
    if eps_N is None:
        # the first pass draws them
        eps_N = torch.empty(len(real), dtype=torch.float32, device=real.device)
    if wants_grad:
        with_graph: Tensor = _Interpolate.apply(real, fake, eps_N, key, chosen)
        return with_graph
    return _interpolate(real, fake, eps_N, key, chosen, out)


def critic_batch(
    real: Tensor, fake: Tensor, eps: Tensor | float | None = None, *, impl: Implementation = "auto"
) -> Tensor:
    """Return [3 N, ...]: real, fake and mixed images in one tensor; arguments of `interpolate`.

    For critics that treat samples one by one (no batch or minibatch statistics) one forward pass
    then serves loss and penalty: differentiate the scores of the last N rows with respect to the
    batch, and give those rows of the gradient to `sample_norm_penalty`.
    """
    check_images("critic_batch", real=real, fake=fake)
    choose_form("critic_batch", impl, real, fake, eps)
    check_eps("critic_batch", eps, real)
    if torch.is_grad_enabled() and (real.requires_grad or fake.requires_grad):
        return torch.cat((real, fake, interpolate(real, fake, eps, impl=impl)))
    batch = real.new_empty(3 * len(real), *real.shape[1:])
    real_part, fake_part, mixed_part = batch.chunk(3)
    real_part.copy_(real)
    fake_part.copy_(fake)
    interpolate(real, fake, eps, out=mixed_part, impl=impl)
    return batch


def sample_norm_penalty(
    grad: Tensor, target: float = 1.0, *, impl: Implementation = "auto"
) -> Tensor:
    """Return the mean of (||grad_i|| - target)^2 over samples, a scalar.

    It is float32, or float64 where `grad` is. Sums are in float64, which holds the squares of all
    numbers of narrower types. It can be differentiated at will; what is fused serves the first two
    derivatives with respect to `grad`, as far as no third is prepared (create_graph). NaN or an
    infinity in a sample shows: in the value as NaN or infinity, in the derivatives as NaN, at all
    elements of that sample and no other.

    Args:
        grad: [N, ...], floating-point; the norm is over all elements of a sample.
        target: Norm that costs nothing, at least 0.
        impl: As in `gradient_penalty`.

    Raises:
        ArgumentError: In one line, for an argument that is none of these.
    """
    check_images("sample_norm_penalty", grad=grad)
    check_target("sample_norm_penalty", target)
    chosen = choose_form("sample_norm_penalty", impl, grad)
    if chosen == "reference":
        return _penalty_reference(grad, target)
    if torch.is_grad_enabled() and grad.requires_grad:
        value: Tensor = _Penalty.apply(grad, float(target), chosen)
        return value
    return passes(chosen).penalty(dense(grad), float(target))[0]


def check_images(caller: str, **images: Tensor) -> None:
    """Refuse what is no batch of images, and batches that differ from the first one."""
    checks.check_floats(caller, **images)
    first_name, first = next(iter(images.items()))
    for name, batch in images.items():
        if batch.ndim < 2 or batch.numel() == 0:
            raise ArgumentError(
                f"{caller}: {name} has shape {list(batch.shape)}; use [N, ...] with N > 0 samples"
            )
        for what in ("shape", "dtype", "device"):
            mine, wanted = getattr(batch, what), getattr(first, what)
            if mine != wanted:
                mine, wanted = (list(v) if what == "shape" else v for v in (mine, wanted))
                raise ArgumentError(
                    f"{caller}: {name} has {what} {mine}, {first_name} has {wanted}; "
                    "they must be equal"
                )


def check_target(caller: str, target: float) -> None:
    """Refuse a target that is no norm."""
    if not checks.is_number(target, 0, sys.float_info.max):
        shown = checks.shown(target)
        raise ArgumentError(f"{caller}: target={shown}; use a finite number of at least 0")


def check_eps(caller: str, eps: Tensor | float | None, real: Tensor) -> Tensor | None:
    """Return the weights as float32 [N]; values on a GPU are not looked at."""
    if eps is None:
        return None
    if not isinstance(eps, Tensor):
        if not checks.is_number(eps, 0, 1):
            shown = checks.shown(eps)
            raise ArgumentError(f"{caller}: eps={shown}; use a number or a tensor in [0, 1]")
        return torch.full((len(real),), float(eps), dtype=torch.float32, device=real.device)
    if eps.shape != (len(real),) or not checks.is_float_tensor(eps) or eps.device != real.device:
        raise ArgumentError(
            f"{caller}: eps is {checks.kind(eps)} {list(eps.shape)} on {eps.device}; "
            f"use dense floating-point [{len(real)}] of 16 bits or more on {real.device}"
        )
    if eps.requires_grad:
        raise ArgumentError(f"{caller}: eps requires a gradient and gets none; pass eps.detach()")
    if eps.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (bound.item() for bound in eps.aminmax())
        if not 0 <= low <= high <= 1:
            raise ArgumentError(
                f"{caller}: eps has values from {low:g} to {high:g}; use values in [0, 1]"
            )
    return eps.float().contiguous()


def _check_out(out: Tensor, real: Tensor, wants_grad: bool) -> None:
    if wants_grad:
        raise ArgumentError(
            "interpolate: out has no gradient to pass on, and an input requires one; detach it"
        )
    check_images("interpolate", real=real, out=out)
    if not out.is_contiguous():
        raise ArgumentError(f"interpolate: out has strides {out.stride()}; use a contiguous tensor")


def _per_sample(values_N: Tensor, images: Tensor) -> Tensor:
    """Return [N, 1, ...] in the type that images are computed in."""
    return values_N.view(-1, *(1,) * (images.ndim - 1)).to(compute_dtype(images))


def _interpolate_reference(
    real: Tensor, fake: Tensor, eps_N: Tensor | None, key: int | None
) -> Tensor:
    if key is not None:
        eps_N = philox.uniform(key, torch.arange(len(real), device=real.device), 1)[:, 0]
    assert eps_N is not None
    eps = _per_sample(eps_N, real)
    return (eps * real + (1 - eps) * fake).to(real.dtype)


def _penalty_reference(grad: Tensor, target: float) -> Tensor:
    squared_N = grad.flatten(1).double().square().sum(1)
    is_zero_N = squared_N == 0
    # a root at 0 has an infinite slope, and 0 times that is NaN: it is taken of 1 there
    norm_N = squared_N.masked_fill(is_zero_N, 1.0).sqrt()
    terms_N = torch.where(is_zero_N, squared_N + target**2, (norm_N - target).square())
    return terms_N.mean().to(compute_dtype(grad))


def _interpolate(
    real: Tensor, fake: Tensor, eps_N: Tensor, key: int | None, chosen: str, out: Tensor | None
) -> Tensor:
    if out is None:
        real, fake = same_order(real, fake)
        out = torch.empty_like(real)
    else:
        real, fake = real.contiguous(), fake.contiguous()
        if _share_memory(out, real) or _share_memory(out, fake):
            return out.copy_(_interpolate(real, fake, eps_N, key, chosen, None))
        # autograd does not see a kernel write: whoever saved `out` for a backward is to be told
        torch.autograd.graph.increment_version(out)
    passes(chosen).interpolate(real, fake, eps_N, key, out)
    return out


def _share_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether two contiguous tensors overlap; a compiler's have no memory to ask about."""
    if torch.compiler.is_compiling():
        return False
    ahead = other.data_ptr() - one.data_ptr()
    return one.device == other.device and -other.nbytes < ahead < one.nbytes


Mixing = Context[None]
Kept = Context[tuple[float, str]]


class _Interpolate(torch.autograd.Function):
    """Mixed images; the backward is plain PyTorch, and so can be differentiated at will."""

    @staticmethod
    def forward(
        ctx: Mixing, real: Tensor, fake: Tensor, eps_N: Tensor, key: int | None, chosen: str
    ) -> Tensor:
        mixed = _interpolate(real, fake, eps_N, key, chosen, None)
        ctx.save_for_backward(eps_N)
        return mixed

    @staticmethod
    def backward(ctx: Mixing, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        eps = _per_sample(ctx.saved_tensors[0], grad)
        to_real, to_fake = ctx.needs_input_grad[:2]
        real = (eps * grad).to(grad.dtype) if to_real else None
        fake = ((1 - eps) * grad).to(grad.dtype) if to_fake else None
        return real, fake, None, None, None


class _Penalty(torch.autograd.Function):
    """P of given gradients."""

    @staticmethod
    def forward(ctx: Kept, grad: Tensor, target: float, chosen: str) -> Tensor:
        value, norm_N = passes(chosen).penalty(dense(grad), target)
        ctx.save_for_backward(grad, norm_N)
        ctx.settings = (target, chosen)
        return value

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,), (grad, norm_N), (target, chosen) = grads, ctx.saved_tensors, ctx.settings
        if not torch.is_grad_enabled():
            return passes(chosen).backward(upstream, dense(grad), norm_N, target), None, None
        slope: Tensor = _PenaltyBackward.apply(upstream, grad, norm_N, target, chosen)
        return slope, None, None


class _PenaltyBackward(torch.autograd.Function):
    """The slope of P, where it is to be differentiated again: fused once, then plain PyTorch."""

    @staticmethod
    def forward(
        ctx: Kept, upstream: Tensor, grad: Tensor, norm_N: Tensor, target: float, chosen: str
    ) -> Tensor:
        ctx.save_for_backward(upstream, grad, norm_N)
        ctx.settings = (target, chosen)
        return passes(chosen).backward(upstream, dense(grad), norm_N, target)

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (upstream, grad, norm_N), (target, chosen) = ctx.saved_tensors, ctx.settings
        if torch.is_grad_enabled():  # a third derivative may be asked for
            slopes = _double_backward_reference(grads[0], upstream, grad, target)
        else:
            direction, grad = same_order(grads[0], grad)
            slopes = passes(chosen).double_backward(direction, upstream, grad, norm_N, target)
        return *slopes, None, None, None


def _double_backward_reference(
    v: Tensor, upstream: Tensor, grad: Tensor, target: float
) -> tuple[Tensor, Tensor]:
    """Return what the pass `double_backward` does, with a graph to every argument."""
    squared_N = grad.flatten(1).double().square().sum(1)
    is_zero_N = squared_N == 0
    inverse_N = squared_N.masked_fill(is_zero_N, 1.0).rsqrt().masked_fill(is_zero_N, 0.0)
    dot_N = (v.flatten(1).double() * grad.flatten(1).double()).sum(1)
    c_N = ((1 - target * inverse_N) * (2 / len(grad))).masked_fill(~squared_N.isfinite(), math.nan)
    along_N = target * inverse_N**3 * dot_N * (2 / len(grad))
    c, along = (_per_sample(upstream * part_N, grad) for part_N in (c_N, along_N))
    return (c_N * dot_N).sum().to(upstream.dtype), (c * v + along * grad).to(grad.dtype)
