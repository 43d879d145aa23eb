"""Exemplar-CNN's networks by their published names (Dosovitskiy et al. 2014, arXiv 1406.6909).

`64c5-128c5-256c5-512f`: 64 filters of 5 x 5 pixels, then 128, then 256, and a fully connected layer
of 512; each followed by a ReLU, the first two by 2 x 2 max pooling. Any such string is a network.
The fully connected layer is a convolution as wide as its map, so that larger images give maps of
features. Its dropout is the method's (`methods/exemplar_cnn/method.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from ssgear.errors import ConfigError

EXAMPLE = "64c5-128c5-256c5-512f"
POOLED = 2
"""The first layers, which a 2 x 2 max pooling follows."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a name says."""

    convolutions: tuple[tuple[int, int], ...]
    """Filters and side of each convolution."""
    connected: int
    """Width of the fully connected layer."""


def is_spec(name: str) -> bool:
    """Whether a model's name looks like one of these: layers joined by hyphens, all of them."""
    return re.fullmatch(r"\d+[cf]\d*(-\d+[cf]\d*)*", name) is not None


def parse_spec(name: str) -> Spec:
    """Read a name.

    Raises:
        ConfigError: it describes no network.
    """
    *first, last = name.split("-")
    found = [re.fullmatch(r"([1-9]\d*)c([1-9]\d*)", layer) for layer in first]
    width = re.fullmatch(r"([1-9]\d*)f", last)
    layers = [(int(each[1]), int(each[2])) for each in found if each]
    odd = all(side % 2 for _, side in layers)
    if width is None or not layers or len(layers) < len(first) or not odd:
        raise ConfigError(
            f"--model.name: {name} is no network; name convolutions of odd sides and one fully "
            f"connected layer at the end, as in {EXAMPLE}"
        )
    return Spec(convolutions=tuple(layers), connected=int(width[1]))


class ExemplarNetwork(nn.Module):
    """Images [N, 3, H, W] to features [N, F]."""

    def __init__(self, spec: Spec, name: str, size: int) -> None:
        """Build the layers for images of side `size`, initialised as He et al. 2015."""
        super().__init__()
        self.feature_info: list[dict[str, str | int]] = []
        channels, side = 3, size
        for number, (width, kernel) in enumerate(spec.convolutions, start=1):
            layer = nn.Sequential(
                nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)
            )
            if number <= POOLED:
                layer.append(nn.MaxPool2d(2))
                side //= 2
            self._add(layer, number, width)
            channels = width
        if side < 1:
            raise ConfigError(
                f"--data.size: {name} cannot take images of {size} x {size} pixels (its pooling "
                f"leaves none); use at least {2 ** min(POOLED, len(spec.convolutions))}"
            )
        last = nn.Sequential(nn.Conv2d(channels, spec.connected, side), nn.ReLU(inplace=True))
        self._add(last, len(spec.convolutions) + 1, spec.connected)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def _add(self, layer: nn.Module, number: int, width: int) -> None:
        self.add_module(f"layer{number}", layer)
        self.feature_info.append({"num_chs": width, "module": f"layer{number}"})

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the fully connected layer, averaged over all places of a larger image."""
        maps = images_NCHW
        for info in self.feature_info:
            maps = self.get_submodule(str(info["module"]))(maps)
        return maps.mean((2, 3))
