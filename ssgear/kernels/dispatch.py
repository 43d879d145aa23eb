"""Which form of NT-Xent can work on a tensor, the fastest first.

A new form needs a name in `Implementation` (nt_xent.py), a place in `FASTEST_FIRST` and a reason in
`why_not` for tensors that it does not take; tests, benchmark and doctor then meet it by itself.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native

FASTEST_FIRST = ("triton", "cpp", "streaming", "reference")
"""All forms."""
TRITON_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return why a form cannot work on tensors of this kind, "" if it can."""
    if impl == "triton":
        return _why_not_triton(device, dtype)
    if impl == "cpp":
        return native.reason() if device.type == "cpu" else f"it is for CPUs, and z is on {device}"
    return ""


def choose(impl: str, z: Tensor) -> str:
    """Return the form to take for `z`: the one that was asked for, or with "auto" the fastest.

    Triton's interpreter works on CPUs, but is never the fastest: it is to be asked for.
    """
    possible = [name for name in FASTEST_FIRST if not why_not(name, z.device, z.dtype)]
    if impl == "auto":
        return next(name for name in possible if name != "triton" or z.is_cuda)
    if impl not in possible:
        reason = why_not(impl, z.device, z.dtype)
        raise ArgumentError(
            f"nt_xent: impl={impl!r} is not possible here: {reason}; use auto or one of "
            f"{', '.join(possible)}"
        )
    return impl


def _why_not_triton(device: torch.device, dtype: torch.dtype) -> str:
    if dtype not in TRITON_TYPES:
        return f"it takes bfloat16, float16 and float32, and z is {str(dtype)[6:]}"
    if not _is_installed("triton"):
        return "the package triton is not installed"
    if device.type == "cuda" and torch.version.cuda:
        major, minor = torch.cuda.get_device_capability(device)
        old = f"it needs compute capability 8.0, and {device} has {major}.{minor}"
        return old if major < 8 else ""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    interpreter = " (on a CPU only in Triton's interpreter, TRITON_INTERPRET=1)"
    return f"it is for NVIDIA GPUs, and z is on {device}{interpreter * (device.type == 'cpu')}"


# what torch.compiler.assume_constant_result says, without importing the compiler here
vars(_why_not_triton)["_dynamo_marked_constant"] = True


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
