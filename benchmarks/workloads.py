"""What is timed: inputs, ours, the peers, and the work that none of them can avoid.

A workload is checked before it is timed: `check_cases` holds every implementation that runs here to
a float64 result on all `CASES` of a kernel, `Workload.check` ours on the timed input itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.machine import Cost
from benchmarks.peers import Function, nt_xent_peers
from benchmarks.timing import gradients
from ssgear.kernels.dispatch import FASTEST_FIRST, why_not
from ssgear.kernels.nt_xent import CASES, Case, nt_xent

TAU = 0.1
DENSE_COPIES = 5
"""M x M matrices in the input's type that the eager expression holds at its peak, at least."""


class WrongResultError(Exception):
    """A value or a gradient is off: nothing is timed."""


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
        right = gradients(self.truth, tuple(each.double() for each in self.inputs))
        found = gradients(self.contenders[self.ours], self.inputs)
        share = 2e-5 if self.dtype == torch.float32 else 2e-2
        for what, mine, truth in zip(("value", "gradient"), found, right, strict=True):
            require(f"{self.kernel} {self.size} {what}", mine, truth, share * largest(truth))


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude."""
    return tensor.abs().max().item()


def require(what: str, ours: Tensor, right: Tensor, allowed: float) -> None:
    """Refuse a result that is further off than allowed; NaN is further off than anything."""
    error = largest(ours - right)
    if not error <= allowed:
        raise WrongResultError(f"{what} is off by {error:.1e}, allowed {allowed:.1e}")


def forms(device: str, dtype: torch.dtype) -> list[str]:
    """Return the implementations of NT-Xent that work here, the fastest first."""
    return [name for name in FASTEST_FIRST if not why_not(name, torch.device(device), dtype)]


def check_nt_xent(device: str) -> int:
    """Hold every form to the dense one in float64 on `CASES`; return the number of results."""
    names = [name for name in forms(device, torch.float32) if name != "reference"]
    for case in CASES:
        z, ids = case.make(torch.float32, device)

        def loss(impl: str, case: Case = case, ids: Tensor | None = ids) -> Function:
            options = {"temperature": case.temperature, "normalize": case.normalize, "impl": impl}
            return lambda leaf: nt_xent(leaf, ids=ids, **options)  # type: ignore[arg-type]

        _, right = gradients(loss("reference"), (z.double(),))
        shortest = z.double().norm(dim=1).min().item()
        rounding = 1e-6 / (case.rows * case.temperature * shortest)
        for name in names:
            _, ours = gradients(loss(name), (z,))
            require(f"{name} {case}", ours, right, 1e-4 * largest(right) + 8 * rounding)
    return len(CASES) * len(names)


def nt_xent_workloads(
    device: str, rows: list[int], widths: list[int], dtypes: list[torch.dtype]
) -> Iterator[Workload]:
    """Yield every size in every type; what the memory has no room for is not compared."""
    for dtype in dtypes:
        for width in widths:
            for num_rows in rows:
                yield nt_xent_workload(device, num_rows, width, dtype)


def nt_xent_workload(device: str, num_rows: int, width: int, dtype: torch.dtype) -> Workload:
    """Return one size: all our forms but the dense one, and the peers."""
    z, _ = Case(rows=num_rows, width=width, temperature=TAU).make(dtype, device)
    mine: dict[str, Function] = {
        name: lambda leaf, name=name: nt_xent(leaf, temperature=TAU, impl=name)  # type: ignore[misc]
        for name in forms(device, dtype)
        if name != "reference"
    }
    fits = DENSE_COPIES * num_rows**2 * 4 < free_memory(device)
    dense = num_rows**2 * 40 < free_memory(device)
    return Workload(
        kernel="nt_xent",
        size=f"2N={num_rows} D={width}",
        dtype=dtype,
        inputs=(z,),
        ours=next(iter(mine)),
        contenders={**mine, **(nt_xent_peers(TAU) if fits else {})},
        truth=lambda leaf: nt_xent(
            leaf, temperature=TAU, impl="reference" if dense else "streaming"
        ),
        cost=nt_xent_cost(num_rows, width, z.itemsize),
    )


def nt_xent_cost(num_rows: int, width: int, itemsize: int) -> Cost:
    """Return the least work: s is symmetric, so half of it twice (2 U = 4 M^2 D), G z once."""
    return Cost(
        flop=4.0 * num_rows**2 * width,
        exps=1.0 * num_rows**2,
        bytes=3.0 * num_rows * width * itemsize,  # z is read in both directions, dz is written
    )


def free_memory(device: str) -> int:
    """Return the bytes that can still be taken."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvail"))
