"""NT-Xent as workloads: every size in every type, our forms, and what others write.

`check_nt_xent` holds every form that runs here to float64 on the kernel's `CASES`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.common.machine import Cost
from benchmarks.common.peers import compile_or_say, is_installed
from benchmarks.common.timing import Function, gradients
from benchmarks.common.workloads import Workload, largest, require
from ssgear.kernels.forms import names_of
from ssgear.kernels.nt_xent import CASES, Case, nt_xent
from ssgear.kernels.nt_xent.loss import FORMS

TAU = 0.1
DENSE_COPIES = 5
"""M x M matrices in the input's type that the eager expression holds at its peak, at least."""


def eager_nt_xent(z_MD: Tensor, tau: float) -> Tensor:
    """Return the loss as most code bases write it: a product, a mask, cross-entropy."""
    num_rows = z_MD.shape[0]
    z_MD = torch.nn.functional.normalize(z_MD, dim=1)
    itself = torch.eye(num_rows, dtype=torch.bool, device=z_MD.device)
    logits = (z_MD @ z_MD.T / tau).masked_fill(itself, -torch.inf)
    target = torch.arange(num_rows, device=z_MD.device).roll(num_rows // 2)
    return torch.nn.functional.cross_entropy(logits, target)


def nt_xent_peers(tau: float) -> dict[str, Function]:
    """Return the others by name; each maps z [2N, D], views stacked, to the loss."""
    peers: dict[str, Function] = {"eager": lambda z_MD: eager_nt_xent(z_MD, tau)}
    compiled = compile_or_say(eager_nt_xent, torch.randn(4, 2), tau)
    if compiled is not None:
        peers["torch.compile"] = lambda z_MD: compiled(z_MD, tau)
    if is_installed("lightly"):
        from lightly.loss import NTXentLoss

        theirs = NTXentLoss(temperature=tau)
        peers["lightly"] = lambda z_MD: theirs(*z_MD.chunk(2))
    return peers


def forms(device: str, dtype: torch.dtype) -> list[str]:
    """Return the implementations of NT-Xent that work here, the fastest first."""
    return names_of(FORMS, torch.empty(0, device=device, dtype=dtype))


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


def nt_xent_workload(device: str, num_rows: int, width: int, dtype: torch.dtype) -> Workload:
    """Return one size: our forms but the dense one, and peers if the memory has room."""
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
