"""Which images belong together: a graph of neighbours, and pairs drawn from it.

`nearest_rows` finds neighbours by Euclidean distance, exactly; `PairGraph` holds undirected edges
and draws, for an image, one that it is joined to and one that it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import philox

CHUNK = 1024
TRIES = 16
"""Images that are tried for one that does not belong to another."""


def nearest_rows(rows: Tensor, count: int) -> Tensor:
    """Return the `count` nearest other rows of every row [N, D], the nearest first: int64 [N, k].

    At most 1024 x N distances are held at a time.
    """
    if not 1 <= count < len(rows):
        raise ArgumentError(f"nearest_rows: {count} neighbours of {len(rows)} rows; give fewer")
    rows = rows.double()
    squares = rows.square().sum(1)
    found = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        distance = squares - 2 * part @ rows.T  # and the row's own square, alike for all
        own = torch.arange(len(part))
        distance[own, start + own] = torch.inf
        found.append(distance.topk(count, dim=1, largest=False).indices)
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class PairGraph:
    """Undirected edges between `size` images."""

    size: int
    """Images."""
    edges: Tensor
    """[E] int64, ascending: first * size + second, each edge both ways."""
    starts: Tensor
    """[size + 1] int64: where the edges of each image begin."""

    @classmethod
    def of(cls, neighbours: Tensor, size: int) -> PairGraph:
        """Join every image to those of its row of `neighbours` [size, k]; to itself never."""
        first = torch.arange(size)[:, None].expand_as(neighbours).flatten()
        second = neighbours.flatten()
        other = first != second
        first, second = first[other], second[other]
        both = torch.cat((first * size + second, second * size + first)).numpy()
        edges = torch.from_numpy(np.unique(both))
        starts = torch.searchsorted(edges, torch.arange(size + 1) * size)
        degrees = starts.diff()
        if not 0 < int(degrees.min()) <= int(degrees.max()) < size - 1:
            raise ArgumentError(
                "PairGraph: an image has no neighbour, or none that is not; each needs both"
            )
        return cls(size=size, edges=edges, starts=starts)

    def joined(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether images belong together, elementwise; every image belongs to itself."""
        wanted = first * self.size + second
        place = torch.searchsorted(self.edges, wanted).clamp(max=len(self.edges) - 1)
        return (self.edges[place] == wanted) | (first == second)

    def draw(self, index: Tensor, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Draw, for each image of `index` [n], one that it is joined to and one that it is not.

        A row depends on the seed, the epoch and its image only. Where every image tried belongs to
        it, the next that does not is taken.
        """
        index = index.cpu()
        draws = philox.uniform(philox.derive_key(seed, epoch, "pair"), index, 1 + TRIES).double()
        first, degree = self.starts[index], self.starts[index + 1] - self.starts[index]
        near = self.edges[first + (draws[:, 0] * degree).long()] % self.size
        tried = (draws[:, 1:] * self.size).long()
        free = ~self.joined(index[:, None].expand_as(tried), tried)
        far = tried.gather(1, free.int().argmax(1)[:, None])[:, 0]
        for _ in range(self.size):
            taken = self.joined(index, far)
            if not bool(taken.any()):
                break
            far = torch.where(taken, (far + 1) % self.size, far)
        return near, far
