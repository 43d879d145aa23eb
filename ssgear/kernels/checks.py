"""What the kernels' functions ask about their arguments, and how they name a wrong one."""

from __future__ import annotations

import numbers

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError, did_you_mean

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What is computed with; float8 is floating-point too, and no operator takes it."""
TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
"""Numbers of this size are what they are in every type that the kernels compute in."""


def is_float_tensor(value: object) -> bool:
    """Return whether a value is a dense tensor of a type that is computed with."""
    return isinstance(value, Tensor) and value.dtype in FLOATS and value.layout == torch.strided


def kind(value: object) -> str:
    """Return what a value is where a dense floating-point tensor was expected."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return str(value.dtype) + f" of layout {value.layout}" * (value.layout != torch.strided)


def shaped(value: object) -> str:
    """Return `kind`, and the shape of what is a tensor."""
    return f"{kind(value)} {list(value.shape)}" if isinstance(value, Tensor) else kind(value)


def is_number(value: object, low: float, high: float) -> bool:
    """Return whether a value is a number between two others; large integers are no trouble."""
    return isinstance(value, numbers.Real) and low <= value <= high  # type: ignore[operator]


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, and not all digits of 10**400."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def compute_dtype(z: Tensor) -> torch.dtype:
    """Return the type that a loss of `z` is computed in: float32, but float64 for float64."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def check_floats(where: str, **tensors: Tensor) -> None:
    """Refuse what is no dense tensor of a type that is computed with."""
    for name, value in tensors.items():
        if not is_float_tensor(value):
            raise ArgumentError(
                f"{where}: {name} is {kind(value)}; use a floating-point tensor, "
                "dense and of 16 bits or more"
            )


def check_positive(where: str, name: str, value: object, right: str = "a positive number") -> None:
    """Refuse what is no number above 0 that float32 holds."""
    if not is_number(value, TINY, LARGEST):
        raise ArgumentError(f"{where}: {name}={shown(value)}; use {right}")


def world_size_of(group: dist.ProcessGroup | None, where: str) -> int:
    """Return the ranks of a group, 1 without one; refuse what is no group of this process."""
    if group is None:
        return 1
    if not isinstance(group, dist.ProcessGroup) and group != dist.GroupMember.NON_GROUP_MEMBER:
        raise ArgumentError(
            f"{where}: group is a {type(group).__name__}; use a torch.distributed.ProcessGroup"
        )
    size = dist.get_world_size(group)
    if size < 1:
        raise ArgumentError(f"{where}: group does not contain this process; pass one that does")
    return size


def check_same_device(where: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors on different devices."""
    if value.device != other.device:
        raise ArgumentError(
            f"{where}: {name} is on {value.device} and {other_name} on {other.device}; "
            "bring them to one device"
        )


def check_device(name: str, given: Tensor, z: Tensor, where: str) -> None:
    """Refuse what cannot be brought to z: it may be there, or on the CPU."""
    if given.device.type != "cpu":
        check_same_device(where, name, given, "z", z)


def check_matrix(where: str, subject: str, value: Tensor, shape: str) -> None:
    """Refuse what is no floating-point tensor of two dimensions; `subject` goes with a verb."""
    if not is_float_tensor(value) or value.ndim != 2 or 0 in value.shape:
        raise ArgumentError(
            f"{where}: {subject} {shaped(value)}; use a floating-point tensor {shape}"
        )


def check_impl(impl: object, where: str, known: tuple[str, ...]) -> None:
    """Refuse an implementation that there is not."""
    if not isinstance(impl, str) or impl not in known:
        hint = did_you_mean(str(impl), known)
        raise ArgumentError(
            f"{where}: unknown impl={shown(impl)}{hint}; use one of {', '.join(known)}"
        )


def check_temperature(temperature: float | Tensor, where: str) -> None:
    """Refuse a number that is no temperature, and a tensor that is not 0-d and floating-point."""
    if not isinstance(temperature, Tensor):
        check_positive(where, "temperature", temperature, "a positive number that float32 holds")
    elif temperature.ndim or not is_float_tensor(temperature):
        raise ArgumentError(
            f"{where}: temperature is {temperature.dtype} {list(temperature.shape)}; "
            "use a number or a 0-d floating-point tensor"
        )


def check_normalize(normalize: object, where: str) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(normalize, bool):
        raise ArgumentError(f"{where}: normalize={shown(normalize)}; use True or False")


def tensor_temperature(temperature: float | Tensor, z: Tensor, where: str) -> Tensor:
    """Return a temperature as a tensor where z is, in the type that is computed in."""
    if isinstance(temperature, Tensor):
        check_device("temperature", temperature, z, where)
        return temperature.to(z.device, compute_dtype(z))
    return torch.full((), float(temperature), dtype=compute_dtype(z), device=z.device)
