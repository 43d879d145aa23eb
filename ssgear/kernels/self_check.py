"""Every form of every kernel, held to its reference on a small input: what `ssgear.doctor` shows.

for checked in check_kernels("cpu"):
    print(checked.kernel, checked.auto, checked.errors, checked.absent)

The inputs are as small as shows a form that is wrong at all; the tests hold each to more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ssgear.kernels.augment import forms as augment
from ssgear.kernels.augment.params import CASES
from ssgear.kernels.forms import Form, Implementation, Input, Run, choose, describe_fault
from ssgear.kernels.gradient_penalty import forms as gradient_penalty
from ssgear.kernels.gradient_penalty.pieces import sample_norm_penalty
from ssgear.kernels.nt_xent import info_nce
from ssgear.kernels.nt_xent import loss as nt_xent

AGREES = 1e-5
"""Largest error relative to the reference that is rounding."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One kernel on one device."""

    kernel: str
    """Its name."""
    auto: str
    """The form that impl="auto" takes."""
    errors: dict[str, str]
    """For each form that can work here, what is wrong with it, "" if nothing is."""
    absent: str
    """Why the fast form of this kind of device is not there; "" if it is."""


def check_kernels(device: str) -> Iterator[Checked]:
    """Yield a report on each kernel that has several forms."""
    rows = torch.empty(2, 1, device=device)
    views = augment.Views(torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device=device), 2)
    yield _checked("nt_xent", nt_xent.FORMS, rows, rows, _fault_of(_nt_xent, rows.device))
    yield _checked("info_nce", info_nce.FORMS, rows, rows, _fault_of(_info_nce, rows.device))
    penalty = _fault_of(_penalty, rows.device)
    yield _checked("gradient_penalty", gradient_penalty.FORMS, rows, rows, penalty)

    def fault_of_views(_: str, run: augment.Run) -> str:
        return augment.fault_of(run, CASES[2], rows.device, AGREES)

    yield _checked("augment", augment.FORMS, views, views.images, fault_of_views)


def _checked(
    kernel: str,
    forms: Sequence[Form[Input, Run]],
    given: Input,
    tensor: Tensor,
    fault_of: Callable[[str, Run], str],
) -> Checked:
    reasons = {form.name: form.unavailable_reason(given) for form in forms}
    return Checked(
        kernel=kernel,
        auto=choose(kernel, "auto", forms, given, (tensor,)).name,
        errors={
            form.name: fault_of(form.name, form.run) for form in forms if not reasons[form.name]
        },
        absent=reasons.get("cpp" if tensor.device.type == "cpu" else "triton", ""),
    )


def _nt_xent(z: Tensor, impl: str) -> Tensor:
    return nt_xent.nt_xent(z, temperature=0.2, impl=cast(nt_xent.Implementation, impl))


def _info_nce(z: Tensor, impl: str) -> Tensor:
    form = cast(info_nce.InfoNCEImplementation, impl)
    q, k, queue = z[:10], z[10:20], z[20:]
    return info_nce.info_nce(q, k, impl=form) + info_nce.info_nce(q, k, queue, impl=form)


def _penalty(z: Tensor, impl: str) -> Tensor:
    return sample_norm_penalty(z, 1.0, impl=cast(Implementation, impl))


def _fault_of(
    loss: Callable[[Tensor, str], Tensor], device: torch.device
) -> Callable[[str, object], str]:
    """Return what compares value and gradient of a form with the formula in float64."""
    rows = torch.randn(26, 7, generator=torch.Generator().manual_seed(0))

    def result(impl: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        z = rows.to(device, dtype, copy=True).requires_grad_()
        value = loss(z, impl)
        (grad,) = torch.autograd.grad(value, z)
        return value.detach().double(), grad.double()

    def error(name: str) -> float:
        pairs = zip(result("reference", torch.float64), result(name, torch.float32), strict=True)
        return max(float((ours - right).norm() / right.norm()) for right, ours in pairs)

    return lambda name, _: describe_fault(lambda: error(name), AGREES)
