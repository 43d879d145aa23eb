"""DrLIM's network (Hadsell, Chopra and LeCun 2006): a digit to a point of the plane.

`--model.name drlim`: three convolutions of 15, 15 and 30 channels (6 x 6 with a border of 2, then
5 x 5 twice), max pooling after the first two, and a linear layer to two numbers. On 32 x 32 pixels
the last map is a single place.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ssgear.errors import ConfigError

NAME = "drlim"
SIDE = 32
WIDTH = 2
"""Numbers that an image becomes."""


class DrlimNetwork(nn.Module):
    """Images [N, 3, 32, 32] to points [N, 2]."""

    def __init__(self, size: int) -> None:
        """Build the layers; the network takes one size of image."""
        super().__init__()
        if size != SIDE:
            raise ConfigError(
                f"--data.size: {NAME} takes images of {SIDE} x {SIDE} pixels, not {size} x {size}; "
                f"use --data.size {SIDE}, or another --model.name"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(3, 15, 6, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(15, 15, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(15, 30, 5),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(30, WIDTH),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the points."""
        return cast(Tensor, self.layers(images_NCHW))
