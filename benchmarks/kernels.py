"""Time the kernels: `make bench`, or `python -m benchmarks.kernels [--json FILE] [--threads N]`.

Every form is first held to a float64 result; where one fails, nothing is timed. Ours and the peers
take turns, and the fastest of the rounds counts. The limit is the time that the multiply-adds alone
take at the rate of a plain matrix product, measured between the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssgear.kernels.dispatch import FASTEST_FIRST, why_not
from ssgear.kernels.nt_xent import CASES, Case, nt_xent

ROUNDS = 7
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    size: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    gflop: float
    percent_of_limit: float


def eager_nt_xent(z_MD: Tensor, tau: float) -> Tensor:
    """Return the loss as most code bases write it: a product, a mask, cross-entropy."""
    num_rows = z_MD.shape[0]
    z_MD = torch.nn.functional.normalize(z_MD, dim=1)
    itself = torch.eye(num_rows, dtype=torch.bool, device=z_MD.device)
    logits = (z_MD @ z_MD.T / tau).masked_fill(itself, -torch.inf)
    target = torch.arange(num_rows, device=z_MD.device).roll(num_rows // 2)
    return torch.nn.functional.cross_entropy(logits, target)


def gradient(loss: Loss, z: Tensor) -> Tensor:
    leaf = z.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def check_cases(device: str) -> None:
    """Hold every fast form to the reference in float64, on the shapes that the tests walk."""
    forms = [name for name in FASTEST_FIRST if not why_not(name, torch.device(device))]
    for case, impl in itertools.product(CASES, forms):
        z, ids = case.make(torch.float32, device)

        def loss(leaf: Tensor, impl: str, case: Case = case, ids: Tensor | None = ids) -> Tensor:
            options = {"temperature": case.temperature, "normalize": case.normalize}
            return nt_xent(leaf, ids=ids, impl=impl, **options)  # type: ignore[arg-type]

        ours = gradient(lambda leaf, impl=impl: loss(leaf, impl), z).double()  # type: ignore[misc]
        right = gradient(lambda leaf: loss(leaf, "reference"), z.double())
        rounding = 1e-6 / (case.rows * case.temperature * z.double().norm(dim=1).min().item())
        require(f"{impl} on {case}", ours, right, 1e-4 * right.abs().max().item() + 8 * rounding)


def require(what: str, ours: Tensor, right: Tensor, allowed: float) -> None:
    error = (ours - right).abs().max().item()
    if not error <= allowed:
        sys.exit(
            f"benchmark: {what} is off by {error:.1e}, allowed {allowed:.1e}; nothing was timed"
        )


def milliseconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def fastest(calls: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Return the fastest of some rounds of each; they take turns and meet the same weather."""
    for call in calls.values():
        call()
    rounds = [
        {name: milliseconds(call, device) for name, call in calls.items()} for _ in range(ROUNDS)
    ]
    return {name: min(times[name] for times in rounds) for name in calls}


def time_nt_xent(num_rows: int, width: int, tau: float, device: str) -> list[Row]:
    """Time forward and backward against eager PyTorch and torch.compile."""
    z, _ = Case(rows=num_rows, width=width, temperature=tau).make(torch.float32, device)
    losses: dict[str, Loss] = {
        "ours": lambda leaf: nt_xent(leaf, temperature=tau),
        "eager": lambda leaf: eager_nt_xent(leaf, tau),
    }
    compiled = torch.compile(eager_nt_xent, dynamic=False)
    try:
        gradient(lambda leaf: compiled(leaf, tau), z)
        losses["torch.compile"] = lambda leaf: compiled(leaf, tau)
    except Exception as error:  # no compiler on this machine: one peer less
        print(f"torch.compile does not work here: {str(error).splitlines()[0]}", file=sys.stderr)
    right = gradient(losses["eager"], z)
    require(f"2N={num_rows}", gradient(losses["ours"], z), right, 1e-4 * right.abs().max().item())
    side = min(num_rows, 2048)
    product = torch.empty(side, side, device=device)
    calls: dict[str, Callable[[], object]] = {
        name: lambda loss=loss: gradient(loss, z)  # type: ignore[misc]
        for name, loss in losses.items()
    }
    calls["product"] = lambda: torch.mm(z[:side], z[:side].T, out=product)
    times = fastest(calls, device)
    flop_per_ms = 2 * side * side * width / times.pop("product")
    flop = 4 * num_rows * num_rows * width  # half of s twice, and G z
    ours = times.pop("ours")
    percent = 100 * flop / flop_per_ms / ours
    size = f"2N={num_rows} D={width} tau={tau:g}"
    return [
        Row("nt_xent", size, ours, peer, peer_ms, peer_ms / ours, flop / 1e9, percent)
        for peer, peer_ms in times.items()
    ]


def show(rows: list[Row]) -> None:
    """Print one table."""
    header = f"{'what':8} {'size':26} {'ours ms':>9} {'peer':14} {'peer ms':>9} {'ratio':>6}"
    print(f"{header} {'GFLOP':>8} {'% of limit':>10}")
    for row in rows:
        line = f"{row.what:8} {row.size:26} {row.ours_ms:9.2f} {row.peer:14} {row.peer_ms:9.2f}"
        print(f"{line} {row.ratio:6.2f} {row.gflop:8.2f} {row.percent_of_limit:10.0f}")


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="Check and time the kernels.")
    parser.add_argument("--json", type=Path, help="write the table there as JSON")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's own number by default")
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048, 8192], help="2N")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_cases(device)
    rows = [row for num_rows in options.rows for row in time_nt_xent(num_rows, 128, 0.1, device)]
    show(rows)
    if options.json:
        machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
        about = {"torch": torch.__version__, "device": device, "machine": machine}
        about["threads"] = str(torch.get_num_threads())
        table = {**about, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
