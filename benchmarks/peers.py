"""What others write in the place of our kernels: plain PyTorch, torch.compile, lightly.

A peer that this machine does not have is left out and named in `missing`.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor]


def eager_nt_xent(z_MD: Tensor, tau: float) -> Tensor:
    """Return the loss as most code bases write it: a product, a mask, cross-entropy."""
    num_rows = z_MD.shape[0]
    z_MD = torch.nn.functional.normalize(z_MD, dim=1)
    itself = torch.eye(num_rows, dtype=torch.bool, device=z_MD.device)
    logits = (z_MD @ z_MD.T / tau).masked_fill(itself, -torch.inf)
    target = torch.arange(num_rows, device=z_MD.device).roll(num_rows // 2)
    return torch.nn.functional.cross_entropy(logits, target)


def nt_xent_peers(tau: float) -> dict[str, Function]:
    """Return the others by name; each maps z [2N, D], views stacked, to the loss."""
    peers: dict[str, Function] = {"eager": lambda z_MD: eager_nt_xent(z_MD, tau)}
    compiled = compile_or_say(eager_nt_xent, torch.randn(4, 2), tau)
    if compiled is not None:
        peers["torch.compile"] = lambda z_MD: compiled(z_MD, tau)
    if importlib.util.find_spec("lightly") is None:
        say("lightly is not installed and not compared; make bench installs it")
    else:
        from lightly.loss import NTXentLoss

        theirs = NTXentLoss(temperature=tau)
        peers["lightly"] = lambda z_MD: theirs(*z_MD.chunk(2))
    return peers


def compile_or_say(function: Function, *example: object) -> Function | None:
    """Compile a function for fixed shapes; None, and a line that says why, where it cannot."""
    compiled: Function = torch.compile(function, dynamic=False)
    try:
        compiled(*example)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        say(f"torch.compile does not work here: {lines[0]}")
        return None
    return compiled


@functools.cache
def say(line: str) -> None:
    """Print a remark beside the table, once."""
    print(f"benchmark: {line}", file=sys.stderr)
