"""The critic of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), conditional or not.

    critic = StyleGAN2Critic(StyleGAN2Config.cifar(Condition(kind="label", size=10)))
    scores_N = critic(images, labels_N)

The condition is mapped and projected on, as StyleGAN2-ADA does (Karras et al. 2020, 2006.06676,
after Miyato & Koyama 2018, 1802.05637). With minibatch statistics a score depends on the other
samples: a penalty that treats samples one by one needs `minibatch_group=0` (`per_sample`).
Shapes: N rows, R pixels of a side, C channels, E numbers of a mapped condition.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ssgear.models.gan.conditions import check_images
from ssgear.models.gan.stylegan2 import Mapping
from ssgear.models.gan.stylegan2_config import START, StyleGAN2Config
from ssgear.models.gan.stylegan2_layers import EqualConv2d, EqualLinear, minibatch_stddev


class CriticBlock(nn.Module):
    """Two 3 x 3 convolutions, the second at half the resolution; `resnet` adds a linear path."""

    def __init__(self, inputs: int, outputs: int, architecture: str) -> None:
        """Build the block: [N, I, H, W] to [N, O, H / 2, W / 2]."""
        super().__init__()
        self.conv0 = EqualConv2d(inputs, inputs, 3)
        self.conv1 = EqualConv2d(inputs, outputs, 3, down=True)
        self.skip = (
            EqualConv2d(inputs, outputs, 1, down=True, bias=False, activated=False)
            if architecture == "resnet"
            else None
        )

    def forward(self, x_NIHW: Tensor) -> Tensor:
        """Return the next feature map."""
        y: Tensor = self.conv1(self.conv0(x_NIHW))
        return y if self.skip is None else (y + self.skip(x_NIHW)) * math.sqrt(0.5)


class StyleGAN2Critic(nn.Module):
    """Images [N, 3, R, R] and a condition to scores [N]."""

    def __init__(self, config: StyleGAN2Config) -> None:
        """Build the network with weights drawn from torch's generator."""
        super().__init__()
        self.config = config
        self.resolution = config.resolution
        self.from_rgb = EqualConv2d(3, config.width(config.resolution), 1)
        self.blocks = nn.Sequential(
            *(
                CriticBlock(config.width(side), config.width(side // 2), config.critic_architecture)
                for side in config.sides[:0:-1]
            )
        )
        width = config.width(START)
        extra = 1 if config.minibatch_group else 0
        self.last_conv = EqualConv2d(width + extra, width, 3)
        self.hidden = EqualLinear(width * START**2, width, activated=True)
        self.score = EqualLinear(width, width if config.condition else 1)
        self.mapping = (
            Mapping(0, config.condition, width, config.condition_layers)
            if config.condition
            else None
        )

    @property
    def per_sample(self) -> bool:
        """Whether a score depends on its own sample only."""
        return self.config.minibatch_group == 0

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return scores [N]; labels are int64 [N], vectors floating-point [N, size]."""
        check_images(images, 3, self.resolution)
        self.config.condition.check(condition, len(images))
        x_NCHW = self.blocks(self.from_rgb(images))
        if not self.per_sample:
            x_NCHW = minibatch_stddev(x_NCHW, self.config.minibatch_group)
        scores_NE: Tensor = self.score(self.hidden(self.last_conv(x_NCHW).flatten(1)))
        if self.mapping is None:
            return scores_NE.squeeze(1)
        mapped_NE: Tensor = self.mapping(None, condition).to(scores_NE.dtype)
        return (scores_NE * mapped_NE).sum(dim=1) / math.sqrt(mapped_NE.shape[1])
