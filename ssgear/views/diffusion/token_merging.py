"""Fewer tokens in the UNet's self-attention: token merging (Bolya and Hoffman 2023, 2303.17604).

    merge_tokens(pipe.unet, 0.5)

At the highest resolution, tokens that are alike are averaged before self-attention, and what it
gives is copied back to each of them. As in the paper one token of each 2 x 2 cell stays, the others
are matched with the most similar of those, and the best matches are merged. The paper draws which
one stays; here it is the upper left one, so that a view depends on nothing but its image and seed.
Averages are taken by a product with the matching, which gives the same bits on a GPU each time.
Images change, so it is off by default.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssgear.views.compile.parts import Forward
    from ssgear.views.diffusion.library import UNet

MOST = 0.75
"""Share of tokens that can be merged: one of each cell of four stays."""


def merge_tokens(unet: UNet, share: float) -> None:
    """Merge a share of the tokens, up to `MOST`, around the self-attention of the outer blocks."""
    for block in (unet.down_blocks[0], unet.up_blocks[-1]):
        for attention in getattr(block, "attentions", ()):
            for layer in attention.transformer_blocks:
                layer.attn1.forward = _around(layer.attn1.forward, share)


def _around(whole: Forward, share: float) -> Forward:
    def forward(
        hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **options: object
    ) -> object:
        side = math.isqrt(hidden_states.shape[1])
        if encoder_hidden_states is not None or side % 2 or side**2 != hidden_states.shape[1]:
            return whole(hidden_states, encoder_hidden_states=encoder_hidden_states, **options)
        matching = Matching(hidden_states, int(share * side**2))
        return matching.unmerge(whole(matching.merge(hidden_states), **options))

    return forward


class Matching:
    """Which tokens of a square grid go together."""

    def __init__(self, x: Tensor, merged: int) -> None:
        """Match by the tokens [n, side * side, C] themselves; `merged` of them disappear."""
        import torch
        from torch.nn import functional as F

        n, count, _ = x.shape
        side = math.isqrt(count)
        place = torch.arange(count, device=x.device)
        stays = (place // side % 2 == 0) & (place % side % 2 == 0)
        self.kept, others = place[stays], place[~stays]
        unit = F.normalize(x.float(), dim=-1)
        best, partner = (unit[:, others] @ unit[:, self.kept].mT).max(-1)
        order = best.argsort(dim=-1, descending=True, stable=True)
        gone, rest = order[:, :merged], order[:, merged:]
        self.gone, self.rest = others[gone], others[rest]
        self.partner = partner.gather(1, gone)
        self.assigned = F.one_hot(self.partner, len(self.kept)).mT.to(x.dtype)
        self.weight = 1 / (1 + self.assigned.float().sum(-1, keepdim=True))
        self.shape = (n, count)

    def merge(self, x: Tensor) -> Tensor:
        """Return [n, count - merged, C]: those that stay as they are, then the averages."""
        import torch

        sums = x[:, self.kept] + self.assigned @ _taken(x, self.gone)
        return torch.cat((_taken(x, self.rest), (sums * self.weight).to(x.dtype)), 1)

    def unmerge(self, y: Tensor) -> Tensor:
        """Return [n, count, C]: every token has what its average has."""
        alone = self.rest.shape[1]
        average = y[:, alone:]
        made = y.new_empty(*self.shape, y.shape[-1])
        made[:, self.kept] = average
        made.scatter_(1, _wide(self.rest, y), y[:, :alone])
        made.scatter_(1, _wide(self.gone, y), _taken(average, self.partner))
        return made


def _wide(places: Tensor, x: Tensor) -> Tensor:
    return places[..., None].expand(-1, -1, x.shape[-1])


def _taken(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(1, _wide(places, x))
