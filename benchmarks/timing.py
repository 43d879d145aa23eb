"""Time and peak memory of competing implementations of one function.

All take turns in every round, so that they meet the same weather; the fastest of the rounds counts.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import milliseconds, synchronise

ROUNDS = 7
Function = Callable[..., Tensor]
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one implementation."""

    forward_ms: float
    backward_ms: float
    both_ms: float
    peak_mb: float
    """Most memory in use above inputs and gradients, over forward and backward."""


def compare(
    functions: Mapping[str, Function], inputs: tuple[Tensor, ...], device: str
) -> dict[str, Timing]:
    """Time `function(*inputs) -> scalar` and its gradient with respect to the inputs."""
    for function in functions.values():  # compiles, fills caches
        one_pass(function, inputs, device)
    rounds = [
        {name: one_pass(function, inputs, device) for name, function in functions.items()}
        for _ in range(ROUNDS)
    ]
    return {
        name: Timing(
            forward_ms=min(times[name][0] for times in rounds),
            backward_ms=min(times[name][1] for times in rounds),
            both_ms=min(sum(times[name]) for times in rounds),
            peak_mb=peak_memory(function, inputs, device),
        )
        for name, function in functions.items()
    }


def one_pass(function: Function, inputs: tuple[Tensor, ...], device: str) -> tuple[float, float]:
    """Return the milliseconds of one forward and one backward."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    values: list[Tensor] = []
    forward = milliseconds(lambda: values.append(function(*leaves)), device)
    backward = milliseconds(lambda: torch.autograd.grad(values[0], leaves), device)
    return forward, backward


def gradients(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return value and gradients, in float64."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    value = function(*leaves)
    return tuple(each.detach().double() for each in (value, *torch.autograd.grad(value, leaves)))


def peak_memory(function: Function, inputs: tuple[Tensor, ...], device: str) -> float:
    """Return the most MiB in use above inputs and gradients, during one forward and backward."""
    gradient_mb = sum(each.nbytes for each in inputs) / MIB
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one_pass(function, inputs, device)
        synchronise(device)
        return (torch.cuda.max_memory_allocated() - before) / MIB - gradient_mb
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the allocator keeps would hide what is used
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the old peak
    before = resident("VmRSS")
    one_pass(function, inputs, device)
    return (resident("VmHWM") - before) / MIB - gradient_mb


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
