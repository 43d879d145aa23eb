"""Network in Network, RotNet's backbone for small images (Gidaris et al. 2018, arXiv 1803.07728).

`nin3`, `nin4`, `nin5`: three to five blocks of three convolutions, each with batch normalisation
and ReLU; the first block ends with a max pool, the second with an average pool, the last with the
mean over all places. Widths as in Lin et al. 2014 (arXiv 1312.4400).
"""

from __future__ import annotations

import re

from torch import Tensor, nn

FIRST = (192, 160, 96)
"""Channels of the first block's three convolutions."""
WIDTH = 192
"""Channels of all others."""
NAMES = ("nin3", "nin4", "nin5")


def is_nin(name: str) -> bool:
    """Whether that is the name of one of these networks."""
    return re.fullmatch(r"nin[345]", name) is not None


class NetworkInNetwork(nn.Module):
    """Images [N, 3, H, W] to features [N, 192]."""

    def __init__(self, num_blocks: int) -> None:
        """Build `num_blocks` blocks, initialised as He et al. 2015 (arXiv 1502.01852)."""
        super().__init__()
        self.feature_info: list[dict[str, str | int]] = []
        widths = 3
        for number in range(1, num_blocks + 1):
            channels = FIRST if number == 1 else (WIDTH,) * 3
            block = _block(widths, channels, kernel=5 if number < 3 else 3)
            if number == 1:
                block.append(nn.MaxPool2d(3, stride=2, padding=1))
            if number == 2:
                block.append(nn.AvgPool2d(3, stride=2, padding=1))
            self.add_module(f"block{number}", block)
            widths = channels[-1]
            self.feature_info.append({"num_chs": widths, "module": f"block{number}"})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the last block's channels, averaged over all places."""
        maps = images_NCHW
        for info in self.feature_info:
            maps = self.get_submodule(str(info["module"]))(maps)
        return maps.mean((2, 3))


def _block(in_channels: int, channels: tuple[int, ...], *, kernel: int) -> nn.Sequential:
    """Return one spatial convolution and two over channels alone, each normalised."""
    layers: list[nn.Module] = []
    for place, width in enumerate(channels):
        side = kernel if place == 0 else 1
        layers += [
            nn.Conv2d(in_channels, width, side, padding=side // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        in_channels = width
    return nn.Sequential(*layers)
