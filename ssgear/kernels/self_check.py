"""Every form of every kernel, held to its reference on a small input: what `ssgear.doctor` shows.

for checked in check_kernels("cpu"):
print(checked.kernel, checked.auto, checked.errors, checked.absent)
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import first_line
from ssgear.kernels import augment, dispatch
from ssgear.kernels.augment import augment_views
from ssgear.kernels.augment_packed import SOLARISE
from ssgear.kernels.nt_xent import nt_xent

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
    place = torch.device(device)
    reasons = {
        name: dispatch.why_not(name, place, torch.float32) for name in dispatch.FASTEST_FIRST
    }
    auto = dispatch.choose("auto", torch.empty(2, 1, device=device))
    yield _checked("nt_xent", auto, reasons, lambda name: _nt_xent_error(name, device), device)
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8, device=device)
    reasons = {
        name: augment.why_not(name, images, 2, torch.float32) for name in augment.FASTEST_FIRST
    }
    auto = augment.choose("auto", images, 2, torch.float32)
    yield _checked("augment", auto, reasons, lambda name: _augment_error(name, device), device)


def _checked(
    kernel: str,
    auto: str,
    reasons: Mapping[str, str],
    error_of: Callable[[str], str | None],
    device: str,
) -> Checked:
    errors = {name: error_of(name) for name, reason in reasons.items() if not reason}
    fast = "cpp" if device == "cpu" else "triton"
    return Checked(kernel=kernel, auto=auto, errors=errors, absent=reasons.get(fast, ""))


def _nt_xent_error(name: str, device: str) -> str | None:
    """Compare loss and gradient of one form with the formula in float64."""
    rows = torch.randn(26, 7, generator=torch.Generator().manual_seed(0))
    results = []
    for impl, kind in (("reference", torch.float64), (name, torch.float32)):
        z = rows.to(device, kind, copy=True).requires_grad_()
        try:
            loss = nt_xent(z, temperature=0.2, impl=impl)  # type: ignore[arg-type]
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            return first_line(error)
        results.append((loss.detach().double(), typing.cast(Tensor, z.grad).double()))
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
