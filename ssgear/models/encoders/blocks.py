"""What an encoder knows after each of its blocks, not only at its end.

`block_names` lists the blocks of a network (timm's `feature_info`, which the package's own networks
have too), `PooledBlocks` is an encoder whose features are those of some blocks: maps are pooled
over four quadrants by their maximum (Dosovitskiy et al. 2014, arXiv 1406.6909), tokens are
averaged.

    features = PooledBlocks(load_encoder("runs/rotnet"), ["block2"])(images)      # [N, 4 C]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ssgear.errors import ConfigError, did_you_mean
from ssgear.models.encoders.encoder import Normalized
from ssgear.models.modes import evaluating


def block_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's blocks, in order; none where it does not tell."""
    infos: Any = getattr(network, "feature_info", None) or ()
    modules = dict(network.named_modules())
    names = [str(info.get("module", "")) for info in infos if isinstance(info, dict)]
    return tuple(dict.fromkeys(name for name in names if name in modules))


class PooledBlocks(nn.Module):
    """An encoder in evaluation whose features are those of some of its blocks, side by side."""

    def __init__(
        self,
        encoder: Normalized,
        names: Sequence[str] | None = None,
        *,
        pooling: Literal["quadrants", "mean"] = "quadrants",
    ) -> None:
        """Wrap `encoder`; by default all blocks are read.

        Args:
            encoder: The encoder.
            names: Blocks to read.
            pooling: Of maps [N, C, H, W]: the maximum over each of four quadrants, [N, 4 C], or the
                mean, [N, C].

        Raises:
            ConfigError: there is no block of such a name, or the network tells of none.
        """
        super().__init__()
        known = block_names(encoder.encoder.network)
        if not known:
            raise ConfigError(
                f"--features: {encoder.config.name} does not tell its blocks; leave it at last"
            )
        for name in names or ():
            if name not in known:
                raise ConfigError(
                    f"--features: {encoder.config.name} has no block {name!r}"
                    f"{did_you_mean(name, known)}; known: {', '.join(known)}"
                )
        self.base = encoder
        self.size = encoder.size
        self.names = tuple(known if names is None else names)
        self.pooling = pooling

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Width of each block's features, by running one blank image through the network."""
        device = self.base.mean_3HW.device
        blank = torch.zeros(1, 3, self.size, self.size, device=device)
        with evaluating(self.base), torch.no_grad():
            return tuple(part.shape[1] for part in self._parts(blank))

    def extra_repr(self) -> str:
        """Say which blocks are read, and how."""
        return f"{', '.join(self.names)}, pooling={self.pooling}"

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return [N, F] of uint8 images, or of float images in [0, 1]."""
        return torch.cat(self._parts(images_NCHW), dim=1)

    def _parts(self, images_NCHW: Tensor) -> list[Tensor]:
        with self._listening() as outputs:
            self.base(images_NCHW)
        pool = quadrants if self.pooling == "quadrants" else means
        return [pool(outputs[name]) for name in self.names]

    @contextmanager
    def _listening(self) -> Iterator[dict[str, Tensor]]:
        """Gather what the blocks return inside the context."""
        found: dict[str, Tensor] = {}
        network = self.base.encoder.network

        def hook(name: str) -> RemovableHandle:
            def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                found[name] = output

            return network.get_submodule(name).register_forward_hook(keep)

        handles = [hook(name) for name in self.names]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def quadrants(output: Tensor) -> Tensor:
    """Return [N, F] of a block's output.

    Of maps [N, C, H, W] the maximum over each of four quadrants, of tokens [N, T, C] the mean.
    """
    if output.ndim == 4 and min(output.shape[2:]) >= 2:
        return F.adaptive_max_pool2d(output.float(), 2).flatten(1)
    if output.ndim == 3:
        return output.float().mean(1)
    return output.float().flatten(1)


def means(output: Tensor) -> Tensor:
    """Return [N, C] of a block's output: the mean over the places of maps, or over tokens."""
    if output.ndim == 4:
        return output.float().mean((2, 3))
    return quadrants(output)
