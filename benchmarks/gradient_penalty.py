"""Time the gradient penalty's own passes: `python -m benchmarks.gradient_penalty [--threads N]`.

Interpolation, norms, penalty and its gradient, without any critic, against eager PyTorch in the two
forms that are in use. Every implementation is first held to the reference in float64; where one
fails, nothing is timed. The limit is the time that the fewest bytes (3 images for the mixture, 3
for penalty and gradient) take at the speed of a copy, measured between the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.kernels import fastest, require
from ssgear.kernels.gradient_penalty import CASES, Case
from ssgear.kernels.gradient_penalty_impl import obstacle
from ssgear.kernels.gradient_penalty_ops import interpolate, sample_norm_penalty

SIZES = ((64, 1, 28, 28), (64, 3, 32, 32), (64, 3, 64, 64), (16, 3, 128, 128))
Passes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    size: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    megabytes: float
    percent_of_limit: float


def ours(impl: str) -> Passes:
    """Return our passes: mixed images, and the gradient of the penalty of `grad`."""

    def passes(real: Tensor, fake: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        mixed = interpolate(real, fake, impl=impl)  # type: ignore[arg-type]
        leaf = grad.detach().requires_grad_()
        penalty = sample_norm_penalty(leaf, impl=impl)  # type: ignore[arg-type]
        return mixed, torch.autograd.grad(penalty, leaf)[0]

    return passes


def eager(norm: Callable[[Tensor], Tensor]) -> Passes:
    """Return the passes as most code bases write them."""

    def passes(real: Tensor, fake: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        eps = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device)
        mixed = eps * real + (1 - eps) * fake
        leaf = grad.detach().requires_grad_()
        penalty = ((norm(leaf.flatten(1)) - 1) ** 2).mean()
        return mixed, torch.autograd.grad(penalty, leaf)[0]

    return passes


PEERS = {
    "eager, norm": eager(lambda grad_ND: grad_ND.norm(2, dim=1)),
    "eager, root of sum": eager(lambda grad_ND: (grad_ND.square().sum(1) + 1e-12).sqrt()),
}


def check_cases(impl: str, device: str) -> None:
    """Hold an implementation to the reference in float64, on the shapes that the tests walk."""
    for case in CASES:
        real, fake, eps, grad = case.make(torch.float32, device)
        mixed = interpolate(real, fake, eps, impl=impl)  # type: ignore[arg-type]
        right = interpolate(real.double(), fake.double(), eps, impl="reference")
        require(f"{case}", mixed.double(), right, 1e-6 * right.abs().max().item())
        slopes = []
        for g, name in ((grad, impl), (grad.double(), "reference")):
            g.requires_grad_()
            value = sample_norm_penalty(g, case.target, impl=name)  # type: ignore[arg-type]
            slopes.append(torch.autograd.grad(value, g)[0].double())
        require(f"{case}", *slopes, 1e-6 * slopes[1].abs().max().item())


def time_size(size: tuple[int, ...], impl: str, device: str) -> list[Row]:
    """Time one size; ours and the peers take turns."""
    real, fake, _, grad = Case(shape=size).make(torch.float32, device)
    spare = torch.empty_like(real)
    forms = {"ours": ours(impl), **PEERS}
    calls: dict[str, Callable[[], object]] = {
        name: lambda form=form: form(real, fake, grad)  # type: ignore[misc]
        for name, form in forms.items()
    }
    calls["copy"] = lambda: spare.copy_(real)
    times = fastest(calls, device)
    limit, mine = 3 * times.pop("copy"), times.pop("ours")
    megabytes = 6 * real.numel() * real.itemsize / 1e6
    shape = " x ".join(map(str, size))
    return [
        Row(f"penalty, {impl}", shape, mine, name, ms, ms / mine, megabytes, 100 * limit / mine)
        for name, ms in times.items()
    ]


def show(rows: list[Row]) -> None:
    """Print one table."""
    header = f"{'what':16} {'size':18} {'ours ms':>8} {'peer':19} {'peer ms':>8} {'ratio':>6}"
    print(f"{header} {'MB':>6} {'% of limit':>10}")
    for row in rows:
        line = f"{row.what:16} {row.size:18} {row.ours_ms:8.3f} {row.peer:19} {row.peer_ms:8.3f}"
        print(f"{line} {row.ratio:6.2f} {row.megabytes:6.1f} {row.percent_of_limit:10.0f}")


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description="Check and time the gradient penalty's passes.")
    parser.add_argument("--json", type=Path, help="write the table there as JSON")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's own number by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = "triton" if device == "cuda" else "cpp"
    impl = "reference" if obstacle(fast, torch.empty(1, 1, device=device)) else fast
    check_cases(impl, device)
    rows = [row for size in SIZES for row in time_size(size, impl, device)]
    show(rows)
    if options.json:
        machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
        about = {"torch": torch.__version__, "device": device, "machine": machine}
        about["threads"] = str(torch.get_num_threads())
        table = {**about, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
