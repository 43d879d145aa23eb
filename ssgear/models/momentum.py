"""A momentum encoder: the same network with weights that follow the trained ones.

MoCo (He et al. 2020, arXiv 1911.05722, equation 2) and BYOL (Grill et al. 2020, 2006.07733):

    w' <- m w' + (1 - m) w,        m = final - (final - base) (1 + cos(pi t / T)) / 2

BYOL's m rises from its base to 1 by that half cosine, MoCo's stays as it is (base = final).

The network itself is not copied: the trained one is called with other tensors in the place of its
weights, so that whatever is done to it (synchronised batch norm, compilation, train and eval mode)
holds for both. Those tensors are float32 buffers: in no group, and in every checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssgear.errors import require
from ssgear.optim import move_average


def momentum_at(base: float, final: float, progress: float) -> float:
    """Return m at a share of the run in [0, 1]: from `base` to `final` by a half cosine."""
    return final - (final - base) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def check_momentum(base: float, final: float) -> None:
    """Refuse what is no share, by the options that methods have for both."""
    for option, value in (("--method.momentum", base), ("--method.final-momentum", final)):
        require(0 <= value <= 1, option, value, "use a value in [0, 1]")


class MomentumCopy(nn.Module):
    """A network as it was, following as it is trained.

    Batch norm's running statistics are its own, of its own forward passes, as the papers have it.
    """

    def __init__(self, module: nn.Module, *, base: float = 0.99, final: float = 1.0) -> None:
        """Start at the weights as they are; `module` is kept without becoming a part of this."""
        super().__init__()
        check_momentum(base, final)
        self.base, self.final = base, final
        self._live = (_Each(module),)  # in a tuple, torch does not see it
        self._weights = {name: _buffer(name) for name, _ in module.named_parameters()}
        self._statistics = {name: _buffer(name) for name, _ in module.named_buffers()}
        for name, weight in module.named_parameters():
            self.register_buffer(self._weights[name], weight.detach().float().clone())
        for name, value in module.named_buffers():
            self.register_buffer(self._statistics[name], value.detach().clone())

    @torch.no_grad()
    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return what the network makes of each view by the weights that follow.

        Views in one call are cheaper than a call for each: the weights are put in place once.
        """
        out: tuple[Tensor, ...] = torch.func.functional_call(self._live[0], self._tensors(), views)
        return out

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Follow the trained weights by one step; call it after a step that was really taken."""
        live = self._live[0].network.parameters()
        share = 1 - momentum_at(self.base, self.final, progress)
        move_average(self.weights().values(), live, share)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that follow, by the name of the parameter that they follow."""
        return {name: getattr(self, buffer) for name, buffer in self._weights.items()}

    def _tensors(self) -> dict[str, Tensor]:
        every = (*self._weights.items(), *self._statistics.items())
        return {f"network.{name}": getattr(self, buffer) for name, buffer in every}


class _Each(nn.Module):
    """A network for several views, one after another."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(view) for view in views)


def _buffer(name: str) -> str:
    """Return a name for a buffer; those of parameters have dots."""
    return name.replace(".", "/")
