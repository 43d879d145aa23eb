"""Every form of every kernel, held to its reference on a small input: what `ssgear.doctor` shows.

for checked in check_kernels("cpu"):
    print(checked.kernel, checked.auto, checked.errors, checked.absent)

The inputs are as small as shows a form that is wrong at all; the tests hold each to more.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssgear.errors import first_line
from ssgear.kernels import dispatch
from ssgear.kernels.augment import augment_views
from ssgear.kernels.augment import views as augment
from ssgear.kernels.augment.params import SOLARISE
from ssgear.kernels.gradient_penalty.impl import choose, obstacle
from ssgear.kernels.gradient_penalty.pieces import sample_norm_penalty
from ssgear.kernels.nt_xent import info_nce, nt_xent

AGREES = 1e-5
"""Largest error relative to the reference that is rounding."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One kernel on one device."""

    kernel: str
    """Its name."""
    auto: str
    """The form that impl="auto" takes."""
    errors: dict[str, str | None]
    """For each form that can work here, what is wrong with it, or None."""
    absent: str
    """Why the fast form of this kind of device is not there; "" if it is."""


def check_kernels(device: str) -> Iterator[Checked]:
    """Yield a report on each kernel that has several forms."""
    place, rows = torch.device(device), torch.empty(2, 1, device=device)
    reasons = {
        name: dispatch.why_not(name, place, torch.float32) for name in dispatch.FASTEST_FIRST
    }
    yield _checked("nt_xent", dispatch.choose("auto", rows), reasons, _nt_xent_error, device)
    auto = dispatch.choose("auto", rows, forms=info_nce.FORMS)
    reasons = {name: reasons[name] for name in info_nce.FORMS}
    yield _checked("info_nce", auto, reasons, _info_nce_error, device)
    reasons = {name: obstacle(name, rows) for name in ("triton", "cpp", "reference")}
    auto = choose("auto", rows, "gradient_penalty")
    yield _checked("gradient_penalty", auto, reasons, _penalty_error, device)
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device=device)
    reasons = {
        name: augment.why_not(name, images, 2, torch.float32) for name in augment.FASTEST_FIRST
    }
    auto = augment.choose("auto", images, 2, torch.float32)
    yield _checked("augment", auto, reasons, _augment_error, device)


def _checked(
    kernel: str,
    auto: str,
    reasons: Mapping[str, str],
    error_of: Callable[[str, str], str | None],
    device: str,
) -> Checked:
    errors = {name: error_of(name, device) for name, reason in reasons.items() if not reason}
    fast = "cpp" if device == "cpu" else "triton"
    return Checked(kernel=kernel, auto=auto, errors=errors, absent=reasons.get(fast, ""))


def _nt_xent_error(name: str, device: str) -> str | None:
    return _loss_error(lambda z, impl: nt_xent(z, temperature=0.2, impl=impl), name, device)


def _info_nce_error(name: str, device: str) -> str | None:
    def loss(z: Tensor, impl: Any) -> Tensor:
        q, k, queue = z[:10], z[10:20], z[20:]
        both = info_nce.info_nce(q, k, impl=impl), info_nce.info_nce(q, k, queue, impl=impl)
        return both[0] + both[1]

    return _loss_error(loss, name, device)


def _penalty_error(name: str, device: str) -> str | None:
    return _loss_error(lambda z, impl: sample_norm_penalty(z, 1.0, impl=impl), name, device)


def _loss_error(loss: Callable[[Tensor, Any], Tensor], name: str, device: str) -> str | None:
    """Compare value and gradient of one form with the formula in float64."""
    rows = torch.randn(26, 7, generator=torch.Generator().manual_seed(0))
    results = []
    for impl, kind in (("reference", torch.float64), (name, torch.float32)):
        z = rows.to(device, kind, copy=True).requires_grad_()
        try:
            value = loss(z, impl)
            value.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            return first_line(error)
        results.append((value.detach().double(), typing.cast(Tensor, z.grad).double()))
    pairs = zip(*results, strict=True)
    return _verdict(max(float((ours - right).norm() / right.norm()) for right, ours in pairs))


def _augment_error(name: str, device: str) -> str | None:
    """Compare views of one form with those of the reference on the CPU, in [0, 1]."""
    case = augment.CASES[2]
    images, params = case.make()
    params[:, SOLARISE] = 0  # a rounding at its threshold would count as a jump
    right = augment_views(images, params, case.settings, size=case.size, impl="reference")
    try:
        there = images.to(device), params.to(device)
        views = augment_views(*there, case.settings, size=case.size, impl=name)  # type: ignore[arg-type]
    except Exception as error:
        return first_line(error)
    return _verdict(float((views.cpu() - right).abs().max()))


def _verdict(worst: float) -> str | None:
    return None if worst < AGREES else f"off by {worst:.1g} of the reference"
