"""Real images as conditions: their features, and which real images are near to each.

After IC-GAN (Casanova et al. 2021, arXiv 2109.05070), whose features come from a frozen published
encoder; here they come from an average of the encoder that is being trained, and the neighbours are
found again every epoch. Shapes: N images of the set, n rows, K neighbours, F numbers of a feature.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.models.modes import evaluating
from ssgear.optim import move_average, replaced

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder


class Instances(nn.Module):
    """The averaged encoder and the table of neighbours, all in buffers."""

    neighbours_NK: Tensor

    def __init__(
        self, encoder: Encoder, *, num_images: int, neighbours: int, momentum: float
    ) -> None:
        """Start at the encoder's weights, with every image its own only neighbour."""
        super().__init__()
        self.momentum = momentum
        self.names = [name for name, _ in encoder.named_parameters()]
        for place, weight in enumerate(encoder.parameters()):
            self.register_buffer(f"weight_{place}", weight.detach().float().clone())
        own_N1 = torch.arange(num_images)[:, None]
        table = own_N1.expand(-1, min(neighbours, num_images)).clone()
        self.register_buffer("neighbours_NK", table)

    def follow(self, encoder: Encoder) -> None:
        """Move the average towards the encoder."""
        move_average(self._average().values(), encoder.parameters(), 1 - self.momentum)

    @torch.no_grad()
    def features(self, encoder: Encoder, views: Tensor) -> Tensor:
        """Return features [n, F] of length 1, by the averaged weights in evaluation mode."""
        with evaluating(encoder):
            features: Tensor = functional_call(encoder, self._average(), (views,))
        return F.normalize(features.float())

    def applied(self, encoder: Encoder) -> AbstractContextManager[None]:
        """Put the average in the place of the encoder's weights inside the block."""
        return replaced(dict(encoder.named_parameters()), self._average())

    def rebuild(self, features_NF: Tensor) -> None:
        """Find every image's neighbours again."""
        nearest = nearest_rows(features_NF, self.neighbours_NK.shape[1])
        self.neighbours_NK[: len(nearest)] = nearest

    def neighbours_of(self, batch: Batch) -> Tensor:
        """Return, for every row, the place [n] of an image near to it."""
        near_nK = self.neighbours_NK[batch.index.to(self.neighbours_NK.device)]
        chosen = (batch.draw("neighbour") * near_nK.shape[1]).long().to(near_nK.device)
        return near_nK.gather(1, chosen[:, None])[:, 0]

    def _average(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"weight_{i}") for i, name in enumerate(self.names)}


@torch.no_grad()
def nearest_rows(features_NF: Tensor, count: int, *, block: int = 1024) -> Tensor:
    """Return the rows [N, count] int64 of the nearest features by cosine, a row itself first."""
    unit_NF = F.normalize(features_NF.float())
    found = []
    everyone = torch.arange(len(unit_NF), device=unit_NF.device)
    for rows in torch.split(everyone, block):
        similar = unit_NF[rows] @ unit_NF.T
        similar.scatter_(1, rows[:, None], 2.0)  # before its twins
        found.append(similar.topk(min(count, len(unit_NF)), dim=1).indices)
    return torch.cat(found)
