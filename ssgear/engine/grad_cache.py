"""Gradient caching: a large batch's exact gradient in the memory of a small one (docs/math.md 1.

Gao et al. 2021, arXiv 2101.06983). Embed the batch in slices without a graph, compute the loss and
its gradient with respect to the embeddings on the whole, then embed each slice again with its
graph, with the random state it had, and push that gradient through. Exact for everything but batch
norm, whose statistics become the slice's (updated in the second pass only).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ssgear.data.loaders.batch import Batch
from ssgear.engine.isolate import frozen_statistics
from ssgear.engine.runtime import Runtime
from ssgear.methods.base import Embeddings, LossTerms, Method, Phase


def cached_backward(
    runtime: Runtime,
    method: Method,
    phase: Phase,
    batch: Batch,
    micro_batch: int,
    lap: Callable[[Literal["encoder", "loss"]], None] = lambda part: None,
) -> LossTerms:
    """Compute the loss of a batch and leave its complete gradient in the group.

    Return the loss detached. `lap` is called at the end of each part.
    """
    slices = even_slices(len(batch), micro_batch)
    states: list[tuple[Tensor, Tensor | None]] = []
    embedded: list[Embeddings] = []
    with torch.no_grad(), frozen_statistics(runtime.groups[phase.group]):
        for part in slices:
            states.append(_random_state(batch.device))
            embedded.append(runtime.forward(phase, method.embed, phase, batch.rows(part)))
    lap("encoder")
    fixed = Embeddings.cat(embedded)
    z = Embeddings(tuple(z_nD.detach().requires_grad_() for z_nD in fixed.online), fixed.targets)
    with runtime.autocast(phase):
        # not through the group's root: ZeRO-3 would expect a backward of its own for it
        terms = method.loss_of(phase, z, batch)
    gradients = torch.autograd.grad(terms.total, z.online, allow_unused=True)
    lap("loss")
    weighted = _reaches_weights(terms.total, z.online)
    for number, part in enumerate(slices):
        with _random_state_of(states[number], batch.device):
            again = runtime.forward(phase, method.embed, phase, batch.rows(part))
        # sum <z, dL/dz> has the gradient that the loss would have sent into this slice
        products = [
            (z_nD.float() * gradient[part]).sum()
            for z_nD, gradient in zip(again.online, gradients, strict=True)
            if gradient is not None
        ]
        pushed = functools.reduce(torch.add, products)
        if weighted and part is slices[-1]:
            # a learned temperature: its gradient is that of the loss with the embeddings fixed
            pushed = pushed + runtime.forward(phase, method.loss_of, phase, fixed, batch).total
        runtime.backward(phase, pushed, last=part is slices[-1])
    lap("encoder")
    terms.total = terms.total.detach()
    return terms


def even_slices(rows: int, at_most: int) -> list[slice]:
    """Cut rows into as few slices as `at_most` allows, of lengths that differ by one at most."""
    count = -(-rows // at_most)
    bounds = [rows * place // count for place in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def _reaches_weights(loss: Tensor, zs: tuple[Tensor, ...]) -> bool:
    """Whether a loss depends on leaves other than the embeddings: weights of its own."""
    leaves = {id(z) for z in zs}
    seen: set[Node] = set()
    ahead = [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", zs[0])) not in leaves:
            return True
        ahead += [following for following, _ in node.next_functions]
    return False


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


@contextmanager
def _random_state_of(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Run the block with an earlier random state; leave the generators as they were before."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
