"""What is timed: inputs, ours, the peers, and the work that none of them can avoid.

A workload is checked before it is timed: `Workload.check` holds ours to float64 on the timed input
itself, and its module holds every implementation that runs here to float64 on a kernel's `CASES`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.command import WrongResultError
from benchmarks.common.machine import Cost
from benchmarks.common.timing import Function, gradients


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One function on one input."""

    kernel: str
    size: str
    dtype: torch.dtype
    inputs: tuple[Tensor, ...]
    ours: str
    """The contender that the others are compared with."""
    contenders: dict[str, Function]
    truth: Function
    """The same in float64, by another way than ours."""
    cost: Cost

    def check(self) -> None:
        """Hold ours to the truth in float64, on this very input."""
        truths = gradients(self.truth, tuple(tensor.double() for tensor in self.inputs))
        results = gradients(self.contenders[self.ours], self.inputs)
        share = 2e-5 if self.dtype == torch.float32 else 2e-2
        for what, ours, truth in zip(("value", "gradient"), results, truths, strict=True):
            require(f"{self.kernel} {self.size} {what}", ours, truth, share * largest(truth))


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude."""
    return tensor.abs().max().item()


def require(what: str, ours: Tensor, truth: Tensor, allowed: float) -> None:
    """Refuse a result that is further off than allowed; NaN is further off than anything."""
    error = largest(ours - truth)
    if not error <= allowed:
        raise WrongResultError(f"{what} is off by {error:.1e}, allowed {allowed:.1e}")
