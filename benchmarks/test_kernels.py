"""The same inputs for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.kernels import DTYPES, ROWS, WIDTHS
from benchmarks.timing import one_pass
from benchmarks.workloads import check_nt_xent, nt_xent_workload

pytest.importorskip("pytest_benchmark")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Benchmark = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def checked() -> None:
    """No time of a wrong result."""
    assert check_nt_xent(DEVICE) > 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", WIDTHS[DEVICE])
@pytest.mark.parametrize("rows", ROWS[DEVICE])
@pytest.mark.parametrize(
    "contender", ["triton", "cpp", "streaming", "eager", "torch.compile", "lightly"]
)
def test_nt_xent(benchmark: Benchmark, contender: str, rows: int, width: int, dtype: str) -> None:
    workload = nt_xent_workload(DEVICE, rows, width, DTYPES[dtype])
    if contender not in workload.contenders:
        pytest.skip(f"{contender} does not run here")
    workload.check()
    function = workload.contenders[contender]
    benchmark.pedantic(
        one_pass, args=(function, workload.inputs, DEVICE), rounds=5, warmup_rounds=1
    )
