"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676).

Pixel blitting, geometric and colour transformations, each with probability p for each image, and
the controller of p: where the critic is too sure of real images, r_t = E[sign(D(real))] above its
target, p grows. `update` is for `Method.after_step`; p and the statistic are buffers, and nothing
waits for the device.

The paper folds blitting and geometry into one map of the mirrored plane. Here blitting moves pixels
as they are, and geometry mirrors what blitting has left: only what comes in from outside differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssgear.errors import ConfigError
from ssgear.models.gan import ada_colour, ada_geometry
from ssgear.models.gan.augment_base import CriticAugment, Draw, draw_uniform

STEPS = {
    "blit": (ada_geometry.blit, ada_geometry.BLIT_COUNT),
    "geom": (ada_geometry.warp, ada_geometry.WARP_COUNT),
    "color": (ada_colour.change_colours, ada_colour.COUNT),
}
"""Policy -> function of images, uniform draws and p, and how many draws an image needs."""


class Ada(CriticAugment):
    """Transformations with probability p, and the controller of p."""

    known = ("blit", "geom", "color")

    p: Tensor
    statistic: Tensor
    counts_3: Tensor

    def __init__(
        self,
        policies: Sequence[str] | None = None,
        *,
        p: float = 0.0,
        p_max: float = 0.8,
        target: float = 0.6,
        images: float = 500_000,
        interval: int = 4,
    ) -> None:
        """Start at probability `p`.

        Args:
            policies: Of blit, geom and color, what is done, in this order; None: all.
            p: Probability at the start.
            p_max: It never grows past this; above 0.8 the changes leak into synthetic images.
            target: Value of r_t that p is steered to.
            images: Real images over which p can go from 0 to 1.
            interval: Critic steps between two changes of p.
        """
        super().__init__(policies)
        if not 0 <= p <= p_max <= 1 or not -1 <= target <= 1 or images <= 0 or interval < 1:
            raise ConfigError(
                f"ada: p {p}, p_max {p_max}, target {target}, images {images}, interval {interval}:"
                " expected 0 <= p <= p_max <= 1, target in [-1, 1], images above 0, interval >= 1"
            )
        self.p_max, self.target, self.images, self.interval = p_max, target, images, interval
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("statistic", torch.zeros(()))
        self.register_buffer("counts_3", torch.zeros(3))

    def augment(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return images, most of them changed if p is large, none if it is 0."""
        for policy in self.policies:
            function, count = STEPS[policy]
            draws = draw_uniform(draw, f"{name}.{policy}", (count,), images)
            images = function(images, draws, self.p.to(images.device))
        return images

    @staticmethod
    def signs(d_real: Tensor) -> Tensor:
        """Return [sum of sign(d_real), number of scores], float32, for `update`.

        On several ranks, their sum is what every rank must update with.
        """
        signs_N = d_real.detach().float().sign().nan_to_num()
        return torch.stack((signs_N.sum(), signs_N.new_tensor(float(signs_N.numel()))))

    @torch.no_grad()
    def update(self, signs_2: Tensor) -> None:
        """Count a critic step's `signs` [2]; every `interval` steps move p and start again."""
        counts_3 = self.counts_3 + torch.cat((signs_2.to(self.counts_3), self.counts_3.new_ones(1)))
        total, scores, steps = counts_3.unbind()
        due = steps >= self.interval
        statistic = total / scores.clamp(min=1)
        moved = self.p + (statistic - self.target).sign() * scores / self.images
        self.p.copy_(torch.where(due, moved.clamp(0, self.p_max), self.p))
        self.statistic.copy_(torch.where(due, statistic, self.statistic))
        self.counts_3.copy_(torch.where(due, 0.0, counts_3))
