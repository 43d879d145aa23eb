"""Contrastive losses as modules, for models that are put together from modules.

`NTXentLoss(0.2)(z1, z2)` is `nt_xent(z1, z2, temperature=0.2)`. A temperature that is an
`nn.Parameter` becomes a parameter of the module.
"""

from __future__ import annotations

from typing import get_args

import torch.distributed as dist
from torch import Tensor, nn

from ssgear.kernels.checks import check_impl, check_normalize, check_temperature
from ssgear.kernels.nt_xent.loss import WHERE, Implementation, nt_xent


class NTXentLoss(nn.Module):
    """NT-Xent (`ssgear.losses.nt_xent`) with its settings kept."""

    def __init__(
        self,
        temperature: float | nn.Parameter = 0.1,
        *,
        normalize: bool = True,
        group: dist.ProcessGroup | None = None,
        impl: Implementation = "auto",
    ) -> None:
        """Keep the settings; they mean what they mean in `nt_xent`."""
        super().__init__()
        check_temperature(temperature, WHERE)
        check_normalize(normalize, WHERE)
        check_impl(impl, WHERE, get_args(Implementation))
        self.temperature = temperature
        self.normalize = normalize
        self.group = group
        self.impl: Implementation = impl

    def forward(self, z: Tensor, *more_views: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the loss of stacked views, or of views given one by one."""
        return nt_xent(
            z,
            *more_views,
            temperature=self.temperature,
            ids=ids,
            normalize=self.normalize,
            group=self.group,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """Return the settings, for `print(module)`."""
        tau = self.temperature
        if isinstance(tau, Tensor):  # one on "meta" has no value
            tau = float("nan") if tau.is_meta else tau.item()
        return f"temperature={float(tau):g}, normalize={self.normalize}, impl={self.impl!r}"
