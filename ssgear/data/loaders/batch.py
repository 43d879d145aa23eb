"""What a loader hands to a method.

One rank's rows of one global batch, and the random numbers that belong to them. `Batch.draw` is the
only source of noise inside a loss: Philox keyed by (seed, step, phase, repeat, position, name), so
two ranks equal one and a resumed run equals the run that never stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgear.kernels import philox


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's n rows of a global batch. Row i of every field belongs to the same image."""

    views: Sequence[Tensor]
    """V tensors [n, 3, h, w], float32, normalised; sizes may differ between views."""
    index: Tensor
    """[n] int64: place in the data set (synthetic rows stand after the real ones)."""
    position: Tensor
    """[n] int64: row in the global batch, the same whatever the number of ranks."""
    images: Tensor | None = None
    """[n, 3, S, S] float32 in [-1, 1], not augmented: centre squares of the run's size
    (data/sources/square.py); only where the method asks for it (`Needs.images`)."""
    fetch: Callable[[Tensor], Tensor] | None = None
    """Other images of the training set as in `images`, by their places [m] int64; only where the
    method asks for images."""
    labels: Tensor | None = None
    """[n] int64 class labels, -1 for synthetic images; or None."""
    generated: Tensor | None = None
    """[V, n] bool: this view is a generated image; None means none is."""
    epoch: int = 0
    """Pass over the data that this batch belongs to."""
    step: int = 0
    """Optimiser steps taken before this batch."""
    progress: float = 0.0
    """Share of the run that is done, in [0, 1]."""
    seed: int = 0
    """Seed of the run."""
    phase: str = ""
    """Phase that consumes the batch; set by the trainer."""
    repeat: int = 0
    """Which repetition of the phase; set by the trainer."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the views are and where `draw` draws."""

    def __len__(self) -> int:
        """Return the number of rows n."""
        return int(self.position.shape[0])

    def rows(self, part: slice) -> Batch:
        """Return the same batch cut to some rows; what is drawn for a row does not change."""

        def cut(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else rows[part]

        return dataclasses.replace(
            self,
            views=[view[part] for view in self.views],
            index=self.index[part],
            position=self.position[part],
            images=cut(self.images),
            labels=cut(self.labels),
            generated=None if self.generated is None else self.generated[:, part],
        )

    def draw(self, name: str, shape: Sequence[int] = (), *, normal: bool = False) -> Tensor:
        """Draw float32 noise for every row: [n, *shape], uniform in [0, 1) or standard normal."""
        key = philox.derive_key(self.seed, self.step, self.phase, self.repeat, name)
        sample = philox.normal if normal else philox.uniform
        count = 1
        for side in shape:
            count *= side
        rows = self.position.to(self.device)
        return sample(key, rows, count).reshape(len(self), *shape)
