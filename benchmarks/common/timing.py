"""Time and peak memory of competing implementations.

All take turns in every round, so that they meet the same weather.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.common.machine import Cost, milliseconds, synchronise

Function = Callable[..., Tensor]
K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
MIB = 2**20
FEWEST = 3
"""Rounds that are run however long they take."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one implementation."""

    forward_ms: float
    backward_ms: float
    both_ms: float
    peak_mb: float
    """Most memory in use above inputs and gradients, over forward and backward."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation on one input."""

    kernel: str
    size: str
    dtype: str
    contender: str
    timing: Timing
    ratio: float
    """Time of this one over the time of ours, forward and backward."""
    cost: Cost
    limit_ms: float
    percent_of_limit: float


def in_turns(
    contenders: Mapping[K, V], take: Callable[[V], T], rounds: int, seconds: float = math.inf
) -> dict[K, list[T]]:
    """Return what `take` returns for each contender in every round; all take turns.

    A first round, which compiles and fills caches, does not count. After `FEWEST` no round begins
    once the seconds are over.
    """
    for contender in contenders.values():
        take(contender)
    taken: dict[K, list[T]] = {name: [] for name in contenders}
    end = time.monotonic() + seconds
    for number in range(rounds):
        if number >= FEWEST and time.monotonic() > end:
            break
        for name, contender in contenders.items():
            taken[name].append(take(contender))
    return taken


def compare(
    functions: Mapping[str, Function], inputs: tuple[Tensor, ...], device: str, rounds: int
) -> dict[str, Timing]:
    """Time `function(*inputs) -> scalar` and its gradient with respect to the inputs.

    The fastest round counts.
    """
    passes = in_turns(functions, lambda function: one_pass(function, inputs, device), rounds)
    return {
        name: Timing(
            forward_ms=min(forward for forward, _ in passes[name]),
            backward_ms=min(backward for _, backward in passes[name]),
            both_ms=min(map(sum, passes[name])),
            peak_mb=peak_memory(function, inputs, device),
        )
        for name, function in functions.items()
    }


def one_pass(function: Function, inputs: tuple[Tensor, ...], device: str) -> tuple[float, float]:
    """Return the milliseconds of one forward and one backward."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    values: list[Tensor] = []
    forward = milliseconds(lambda: values.append(function(*leaves)), device)
    backward = milliseconds(lambda: torch.autograd.grad(values[0], leaves), device)
    return forward, backward


def gradients(function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return value and gradients, in float64."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    results = (value, *torch.autograd.grad(value, leaves))
    return tuple(tensor.detach().double() for tensor in results)


def peak_memory(function: Function, inputs: tuple[Tensor, ...], device: str) -> float:
    """Return the most MiB in use above inputs and gradients, during one forward and backward."""
    gradient_mb = sum(tensor.nbytes for tensor in inputs) / MIB
    gc.collect()
    # what an allocator keeps would hide what is used
    if device == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak(device)
    before = peak_mb(device)
    one_pass(function, inputs, device)
    return peak_mb(device) - before - gradient_mb


def forget_peak(device: str) -> None:
    """Let the peak be what is in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_mb(device: str) -> float:
    """Return the most MiB that this process used: torch's on a GPU, resident ones on a CPU."""
    if device == "cuda":
        synchronise(device)
        return torch.cuda.max_memory_allocated() / MIB
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
