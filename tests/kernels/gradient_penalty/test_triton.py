"""The Triton passes: in the interpreter against closed forms, and compiled ahead for a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.kernels import philox
from ssgear.kernels.gradient_penalty import triton as kernels
from ssgear.kernels.gradient_penalty.penalty import CASES, Case
from tests.kernels.gradient_penalty.oracle import DTYPES, SMALL, Result, check, ours

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Tensor]]:
    """All cases, from a process that chose the interpreter before it imported triton."""
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    command = [sys.executable, "-m", "tests.kernels.gradient_penalty.oracle", path]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
    results: dict[str, list[Tensor]] = torch.load(path)
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_passes_equal_closed_forms(
    case: Case, dtype: torch.dtype, interpreted: dict[str, list[Tensor]]
) -> None:
    # where a GPU rounds to bfloat16, the interpreter cuts off
    result = Result(*interpreted[f"{case} {dtype}"])
    check(result, case, dtype, roundings=2 if dtype == torch.bfloat16 else 1)


def test_weights_are_drawn_in_the_kernel(interpreted: dict[str, list[Tensor]]) -> None:
    torch.manual_seed(3)
    key = int(torch.randint(2**63 - 1, ()))
    assert torch.equal(*interpreted["drawn"], philox.uniform(key, torch.arange(67), 1)[:, 0])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_passes_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and not 1e-3 < case.scale < 1e3:
        pytest.skip("float16 does not hold such numbers")
    check(ours(case, dtype, "triton", "cuda"), case, dtype)
    again = [ours(case, dtype, "triton", "cuda") for _ in range(2)]
    for one, other in zip(*(vars(result).values() for result in again), strict=True):
        assert torch.equal(one, other)


SCALARS = {
    "eps": "*fp32", "partial": "*fp64", "norm": "*fp64", "value": "*fp32", "upstream": "*fp32",
    "key": "i64", "length": "i32", "num_samples": "i32", "target": "fp32",
}  # fmt: skip
CONSTANTS: list[tuple[str, dict[str, Any]]] = [
    ("interpolate_kernel", {"DRAW": True}),
    ("interpolate_kernel", {"DRAW": False}),
    ("dot_kernel", {"SAME": True}),
    ("dot_kernel", {"SAME": False}),
    ("penalty_kernel", {"STRETCHES": kernels.MOST_STRETCHES, "ROWS": kernels.ROWS}),
    ("backward_kernel", {}),
    ("double_backward_kernel", {"STRETCHES": 8}),
]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "constants"), CONSTANTS)
def test_kernels_compile_without_spill_or_atomics(
    name: str, constants: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels, name)
    constants = {**constants, **({"BLOCK": kernels.BLOCK} if "BLOCK" in kernel.arg_names else {})}
    signature = {
        argument: "constexpr" if argument in constants else SCALARS.get(argument, f"*{dtype}")
        for argument in kernel.arg_names
    }
    # as in a launch: aligned pointers, and a length that is a multiple of 16
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (argument, kind) in enumerate(signature.items())
        if kind.startswith("*") or argument == "length"
    }
    binary = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": kernels.NUM_WARPS},
    )
    ptx = binary.asm["ptx"]
    assert not re.search(r"\b(atom|red)\.", ptx)
    if "length" in signature:
        assert re.search(r"ld\.global\.\w*\.?v\d|ld\.global\.v\d", ptx), "loads are not vectors"
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run(
        [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"STACK:0\b", usage) and re.search(r"LOCAL:0\b", usage), usage
