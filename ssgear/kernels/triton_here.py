"""Whether Triton's kernels can work on a device, asked without importing triton.

On a CPU they can in Triton's interpreter only (TRITON_INTERPRET=1, set before triton is imported),
which proves arithmetic and takes seconds: tests ask for it by name.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from ssgear.kernels.native import constant_in_graphs


@constant_in_graphs
def why_not(device: torch.device) -> str:
    """Return why Triton's kernels cannot work on a device, "" if they can."""
    if not _is_installed():
        return "the package triton is not installed"
    if device.type == "cuda" and torch.version.cuda:
        major, minor = torch.cuda.get_device_capability(device)
        old = f"it needs compute capability 8.0, and {device} has {major}.{minor}"
        return old if major < 8 else ""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    interpreter = " (on a CPU only in Triton's interpreter, TRITON_INTERPRET=1)"
    return f"it is for NVIDIA GPUs, and got {device}{interpreter * (device.type == 'cpu')}"


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
