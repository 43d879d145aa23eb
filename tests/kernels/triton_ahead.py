"""Triton kernels compiled without a GPU, and what their machine code says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
IN_ROWS_TYPE = {"z_MD", "w_MD", "g_PQ", "grad_RD"}
FLOAT64 = {"total_M", "terms_T", "slopes_T", "parts_T"}
INT32 = {"class_M", "others_M"}


@dataclass(frozen=True)
class Compiled:
    """What one kernel takes and contains on one chip."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    ptx: str
    cubin: bytes

    def sass(self) -> str:
        """Return the machine code; disassembling takes longer than all else but compiling."""
        return _cuobjdump(self.cubin, "--dump-sass")


def signature_of(kernel: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """Types of a kernel's arguments by the names that we give them."""
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in IN_ROWS_TYPE:
            signature[name] = f"*{TYPES[dtype]}"
        elif name in FLOAT64:
            signature[name] = "*fp64"
        elif name in INT32:
            signature[name] = "*i32"
        elif name == "factor":
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if re.search(r"_[A-Z0-9]+$", name) else "i32"
    return signature


def compile_ahead(
    kernel: Any,
    constants: dict[str, Any],
    dtype: torch.dtype,
    *,
    capability: int = 90,
    num_warps: int = 4,
    num_stages: int = 2,
    registers: int | None = None,
) -> Compiled:
    """Compile for a chip; pointers are aligned as PyTorch aligns them."""
    signature = signature_of(kernel, constants, dtype)
    unknown = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or (kind == "i32" and name not in unknown)
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options: dict[str, Any] = {
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": True,
    }
    options |= {} if registers is None else {"maxnreg": registers}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return describe(binary)


def describe(binary: Any) -> Compiled:
    """Look into what was compiled."""
    cubin = binary.asm["cubin"]
    usage = _cuobjdump(cubin, "--dump-resource-usage")
    taken = re.search(r"REG:(\d+)", usage)
    assert taken, usage
    # what did not fit in registers is stored to local memory: the stack frame says how much
    found = re.search(r"LOCAL:(\d+)", usage), re.search(r"STACK:(\d+)", usage)
    spilled = sum(int(place[1]) for place in found if place)
    return Compiled(int(taken[1]), spilled, binary.metadata.shared, binary.asm["ptx"], cubin)


def _cuobjdump(cubin: bytes, what: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, what, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
