"""The forms that a kernel is written in, one way to choose among them, and one check of a form.

A kernel has a `reference` in plain PyTorch and faster forms for some devices. Its module lists
them in `FORMS`, the fastest first and the reference last; its public function runs what `choose`
returns:

    form = choose("nt_xent", impl, FORMS, z, (z, tau, ids))
    loss = form.run(...)

A new form is one more entry of that list; tests, benchmarks and `ssgear.doctor` walk over it too.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, first_line
from ssgear.kernels import checks, native, transforms

Implementation = Literal["auto", "reference", "cpp", "triton"]
"""What `impl=` may be for a kernel in these three forms."""
Input = TypeVar("Input")
Run = TypeVar("Run")
Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Form(Generic[Input, Run]):
    """One way to compute a kernel."""

    name: str
    """What `impl=` calls it."""
    unavailable_reason: Callable[[Input], str]
    """Returns why it cannot take an input, "" if it can."""
    run: Run
    """What computes it; the forms of one kernel are called alike."""
    is_right: Callable[[torch.device], bool] = lambda device: True
    """Whether "auto" may take it on a device; one that may be miscompiled is tried there first."""


def choose(
    where: str,
    impl: str,
    forms: Sequence[Form[Input, Run]],
    given: Input,
    tensors: tuple[Tensor, *tuple[object, ...]],
    *,
    is_fusible: bool = False,
) -> Form[Input, Run]:
    """Return the form that `impl` names, or with "auto" the fastest that can take the input.

    Triton's interpreter works on CPUs, but is never the fastest: it runs only if it is named.

    Args:
        where: The public function, for messages.
        impl: "auto" or the name of a form.
        forms: The fastest first, the reference last.
        given: What the forms' `unavailable_reason` looks at.
        tensors: All arguments, the one whose device decides first. The others matter where they are
            differentiated in a way that the reference alone can follow.
        is_fusible: Whether "auto" leaves the reference to torch.compile, which fuses its operators.
    """
    checks.check_impl(impl, where, ("auto", *(form.name for form in reversed(forms))))
    is_transformed = transforms.is_transformed(*tensors)
    if impl == "auto":
        if is_transformed or (is_fusible and torch.compiler.is_compiling()):
            return forms[-1]
        device = tensors[0].device
        return next(form for form in forms if _is_automatic(form, given, device))
    form = form_named(forms, impl)
    reason = form.unavailable_reason(given)
    if is_transformed and form is not forms[-1]:
        reason = transforms.REASON
    if reason:
        possible = names_of(forms[-1:] if is_transformed else forms, given)
        raise ArgumentError(
            f"{where}: impl={impl!r} is not possible here: {reason}; "
            f"use {' or '.join(('auto', *possible))}"
        )
    return form


def _is_automatic(form: Form[Input, Run], given: Input, device: torch.device) -> bool:
    if form.name == "triton" and device.type != "cuda":
        return False
    return not form.unavailable_reason(given) and form.is_right(device)


def form_named(forms: Iterable[Form[Input, Run]], name: str) -> Form[Input, Run]:
    """Return the form of that name."""
    return next(form for form in forms if form.name == name)


def names_of(forms: Iterable[Form[Input, Run]], given: Input) -> list[str]:
    """Return the names of the forms that can take an input, in their order."""
    return [form.name for form in forms if not form.unavailable_reason(given)]


def always_available(_: object) -> str:
    """Return no reason: a form in plain PyTorch takes everything."""
    return ""


def cpp_unavailable_reason(tensor: Tensor) -> str:
    """Return why the C++ operators cannot take a tensor, "" if they can."""
    on_cpu = tensor.device.type == "cpu"
    return native.reason() if on_cpu else f"it is for CPUs, and got {tensor.device}"


@native.constant_in_graphs
def triton_unavailable_reason(device: torch.device) -> str:
    """Return why Triton's kernels cannot work on a device, "" if they can; triton is not imported.

    On a CPU they can in Triton's interpreter only (TRITON_INTERPRET=1, set before triton is
    imported), which proves arithmetic and takes seconds: tests ask for it by name.
    """
    if not _has_triton():
        return "the package triton is not installed"
    if device.type == "cuda" and torch.version.cuda:
        major, minor = torch.cuda.get_device_capability(device)
        old = f"it needs compute capability 8.0, and {device} has {major}.{minor}"
        return old if major < 8 else ""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    interpreter = " (on a CPU only in Triton's interpreter, TRITON_INTERPRET=1)"
    return f"it is for NVIDIA GPUs, and got {device}{interpreter * (device.type == 'cpu')}"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def type_unavailable_reason(tensor: Tensor, *types: torch.dtype) -> str:
    """Return why a form of these types cannot take a tensor, "" if it can."""
    names = [str(dtype).removeprefix("torch.") for dtype in (*types, tensor.dtype)]
    if tensor.dtype in types:
        return ""
    return f"it takes {', '.join(names[:-2])} and {names[-2]}, and got {names[-1]}"


def describe_fault(error_of: Callable[[], float], allowed: float) -> str:
    """Return what is wrong with a form: what it raised, or how far it is off; "" if nothing is."""
    try:
        error = error_of()
    except Exception as problem:  # whatever a compiler or a driver raises
        return first_line(problem)
    return "" if error < allowed else f"off by {error:.1g} of the reference"


def first_right(
    where: str,
    device: torch.device,
    candidates: Iterable[Candidate],
    fault_of: Callable[[Candidate], str],
    otherwise: str,
) -> Candidate | None:
    """Return the first Triton kernel that is right on a device, None if none is; warn of faults."""
    fault = ""
    for candidate in candidates:
        wrong = fault_of(candidate)
        if not wrong:
            if fault:
                text = f"{where}: {fault} as compiled; a slower plan is right"
                warnings.warn(text, stacklevel=4)
            return candidate
        fault = wrong
    warnings.warn(
        f"{where}: NO TRITON KERNEL IS RIGHT on {device}: {fault}; the {otherwise} form is taken, "
        "which is slower. Please report this with the versions of torch, triton and the driver",
        stacklevel=4,
    )
    return None
