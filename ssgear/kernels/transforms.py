"""What autograd and the fused forms know of each other, and where it is too little.

Their derivatives are written out for autograd's backward alone. Under torch.func, and where a
tensor carries a tangent of forward-mode differentiation, their operators would answer as if it were
a constant: plain PyTorch has to work there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssgear.errors import ArgumentError
from ssgear.kernels.native import constant_in_graphs

REASON = "torch.func and forward-mode differentiation do not see into it"


Settings = TypeVar("Settings")


class Context(Protocol[Settings]):
    """What an `autograd.Function` or operator passes from its forward to its backward."""

    settings: Settings
    """What is no tensor."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """What `save_for_backward` was given."""

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """Whether an argument wants a gradient."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Save tensors."""

    def set_materialize_grads(self, value: bool) -> None:
        """Say whether a gradient that is None arrives as zeros."""


def no_second_derivative(where: str) -> Callable[..., NoReturn]:
    """Return the derivative of a fused backward: a refusal that says what can be taken instead."""

    def refuse(*_: object) -> NoReturn:
        raise ArgumentError(
            f"{where}: the fused forms have no second derivative; use impl='reference'"
        )

    return refuse


def is_transformed(*values: object) -> bool:
    """Return whether torch.func or forward-mode differentiation is at work on one of the tensors.

    While torch.compile traces, tensors do not say: whether either is at work at all has to do.
    """
    if torch.compiler.is_compiling():
        return _is_any_at_work()
    return any(_is_transformed(value) for value in values if isinstance(value, Tensor))


@constant_in_graphs
def _is_any_at_work() -> bool:
    in_functorch = torch._C._functorch.maybe_current_level() is not None
    return in_functorch or forward_ad._current_level >= 0


def _is_transformed(tensor: Tensor) -> bool:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None
