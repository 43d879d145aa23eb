"""What watches a run: callbacks, and the care that none of them changes it.

A callback is called on every rank, in the order it was given. It hands figures to those after it
through `run.results`. After each call the trainer restores every module's mode and all random
state.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ssgear.engine.run import Run

Reason = Literal["finished", "stopped", "failed"]


class Callback:
    """Watches a run; every hook does nothing unless it is overridden."""

    def on_start(self, run: Run) -> None:
        """Be called once before the first step of this process."""

    def on_step(self, run: Run) -> None:
        """Be called after every step."""

    def on_epoch(self, run: Run) -> None:
        """Be called after every pass over the data."""

    def on_end(self, run: Run, reason: Reason) -> None:
        """Be called once when the run is over."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors, numbers, strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


@contextmanager
def unchanged(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the modes of all modules and every random state after the block."""
    modes = [(part, part.training) for part in module.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
