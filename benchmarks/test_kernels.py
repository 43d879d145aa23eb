"""The same inputs for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.common.timing import one_pass
from benchmarks.common.workloads import Workload
from benchmarks.gradient_penalty import (
    SIZES,
    check_gradient_penalty,
    gradient_penalty_workload,
)
from benchmarks.kernels import DTYPES, ROWS, WIDTHS
from benchmarks.nt_xent import check_nt_xent, nt_xent_workload

pytest.importorskip("pytest_benchmark")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Benchmark = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def checked() -> None:
    """No time of a wrong result."""
    assert check_nt_xent(DEVICE) > 0
    assert check_gradient_penalty(DEVICE) > 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", WIDTHS[DEVICE])
@pytest.mark.parametrize("rows", ROWS[DEVICE])
@pytest.mark.parametrize(
    "contender", ["triton", "cpp", "streaming", "eager", "torch.compile", "lightly"]
)
def test_nt_xent(benchmark: Benchmark, contender: str, rows: int, width: int, dtype: str) -> None:
    time(benchmark, nt_xent_workload(DEVICE, rows, width, DTYPES[dtype]), contender)


@pytest.mark.parametrize("size", SIZES[DEVICE], ids=str)
@pytest.mark.parametrize("contender", ["triton", "cpp", "eager", "eager, root", "torch.compile"])
def test_gradient_penalty(benchmark: Benchmark, contender: str, size: tuple[int, ...]) -> None:
    time(benchmark, gradient_penalty_workload(DEVICE, size), contender)


def time(benchmark: Benchmark, workload: Workload, contender: str) -> None:
    """Check ours, then time one contender's forward and backward."""
    if contender not in workload.contenders:
        pytest.skip(f"{contender} does not run here")
    workload.check()
    arguments = (workload.contenders[contender], workload.inputs, DEVICE)
    benchmark.pedantic(one_pass, args=arguments, rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]
