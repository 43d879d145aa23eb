"""What the kernels' functions ask about their arguments, and how they name a wrong one."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What is computed with; float8 is floating-point too, and no operator takes it."""
TINY, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
"""Numbers of this size are what they are in every type that the kernels compute in."""


def is_float_tensor(value: object) -> bool:
    """Return whether a value is a dense tensor of a type that is computed with."""
    return isinstance(value, Tensor) and value.dtype in FLOATS and value.layout == torch.strided


def kind(value: object) -> str:
    """Return what a value is where a dense floating-point tensor was expected."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return str(value.dtype) + f" of layout {value.layout}" * (value.layout != torch.strided)


def shaped(value: object) -> str:
    """Return `kind`, and the shape of what is a tensor."""
    return f"{kind(value)} {list(value.shape)}" if isinstance(value, Tensor) else kind(value)


def is_number(value: Any, low: float, high: float) -> bool:
    """Return whether a value is a number between two others; large integers are no trouble."""
    if not isinstance(value, numbers.Real):
        return False
    return low <= value <= high  # type: ignore[operator]


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, and not all digits of 10**400."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."
