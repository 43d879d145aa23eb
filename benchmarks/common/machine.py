"""What this machine is, and the fastest that it can multiply, exponentiate and copy.

Rates are measured here, once a run, as the best of several tries: a kernel is compared with them,
not with what a data sheet says.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

TRIES = 9
PACKAGES = (
    "torch", "triton", "lightly", "diffusers", "onnxruntime", "onnxruntime-gpu", "tensorrt",
    "ssgear",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of one call that no implementation can avoid."""

    flop: float = 0.0
    """Additions and multiplications inside matrix products."""
    exps: float = 0.0
    """Exponentials."""
    bytes: float = 0.0
    """Bytes to and from main memory."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Per millisecond, on one device in one type."""

    flop: float
    exps: float
    bytes: float

    def milliseconds(self, cost: Cost) -> float:
        """Return the time of the slowest of the three; the other two may hide behind it."""
        return max(cost.flop / self.flop, cost.exps / self.exps, cost.bytes / self.bytes)


def measure_rates(device: str, dtype: torch.dtype) -> Rates:
    """Measure a square product in `dtype`, float32 exponentials in cache, and a large copy.

    On a CPU narrow types may be widened for the product; the faster of both ways counts.
    """
    side = 8192 if device == "cuda" else 1536
    ways = {dtype, torch.float32} if device == "cpu" else {dtype}
    few = torch.rand(1 << (24 if device == "cuda" else 16), device=device)
    result = torch.empty_like(few)
    return Rates(
        flop=2 * side**3 / min(product_ms(side, way, device) for way in ways),
        exps=few.numel() / best(lambda: torch.exp(few, out=result), device),
        bytes=copy_rate(1 << (30 if device == "cuda" else 26), device),
    )


def copy_rate(num_bytes: int, device: str) -> float:
    """Return the bytes per millisecond, read and written, of a copy of that many.

    What fits in a cache is copied faster: a kernel's limit is that of its own size.
    """
    many = torch.ones(num_bytes, device=device, dtype=torch.uint8)
    copied = torch.empty_like(many)
    return 2 * num_bytes / best(lambda: copied.copy_(many), device)


def product_ms(side: int, dtype: torch.dtype, device: str) -> float:
    """Return the time of one product of square matrices."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    product = torch.empty_like(a)
    return best(lambda: torch.mm(a, b, out=product), device)


def best(call: Callable[[], object], device: str) -> float:
    """Return the milliseconds of the fastest of several calls."""
    call()
    return min(milliseconds(call, device) for _ in range(TRIES))


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Return how long one call took, until the device was done with it."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return 1000 * (time.perf_counter() - start)


def synchronise(device: str) -> None:
    """Wait until a GPU is done with what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def describe(device: str) -> dict[str, object]:
    """Return date, device, threads and versions, as they are kept beside every result."""
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
