"""NT-Xent in float64, written from the formula of SupCon's "out" form and from nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Result:
    """A loss and its gradients with respect to z and temperature."""

    loss: Tensor
    grad_z: Tensor
    grad_tau: Tensor


def dense_loss(z: Tensor, tau: Tensor, ids: Tensor | None, normalize: bool = True) -> Tensor:
    """Return the loss in the type of `z`: the diagonal is cut out, not masked."""
    num_rows = len(z)
    if ids is None:
        ids = torch.arange(num_rows) % (num_rows // 2)
    if normalize:
        z = z / z.norm(dim=1, keepdim=True)
    others = ~torch.eye(num_rows, dtype=torch.bool)
    logits = (z @ z.T / tau)[others].view(num_rows, num_rows - 1)
    positives = (ids[:, None] == ids)[others].view(num_rows, num_rows - 1).to(z.dtype)
    count = positives.sum(1)
    terms = logits.logsumexp(1) * count.sign()
    terms = terms - (positives / count.clamp_min(1)[:, None] * logits).sum(1)
    return terms.sum() / count.sign().sum().clamp_min(1)


def oracle(z: Tensor, tau: float, ids: Tensor | None = None, normalize: bool = True) -> Result:
    """Return loss and gradients in float64."""
    z64 = z.detach().double().requires_grad_()
    tau64 = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    loss = dense_loss(z64, tau64, ids, normalize)
    loss.backward()
    assert z64.grad is not None and tau64.grad is not None
    return Result(loss.detach(), z64.grad, tau64.grad)


def eager(z: Tensor, tau: float, ids: Tensor | None = None, normalize: bool = True) -> Result:
    """Return what the usual dense expression gives in float32, gradients in the type of `z`."""
    z = z.detach().requires_grad_()
    tau32 = torch.tensor(tau, requires_grad=True)
    rows = z.float()
    rows = torch.nn.functional.normalize(rows, dim=1) if normalize else rows
    itself = torch.eye(len(z), dtype=torch.bool)
    log_p = (rows @ rows.T / tau32).masked_fill(itself, -torch.inf).log_softmax(1)
    ids = torch.arange(len(z)) % (len(z) // 2) if ids is None else ids
    positives = (ids[:, None] == ids) & ~itself
    count = positives.sum(1)
    terms = -log_p.masked_fill(~positives, 0).sum(1)[count > 0] / count[count > 0]
    loss = terms.mean()
    loss.backward()
    assert z.grad is not None and tau32.grad is not None
    return Result(loss.detach(), z.grad, tau32.grad)


def assert_rows_close(found: Tensor, wanted: Tensor, allowed: float, floor: float = 0.0) -> None:
    """Hold every row to a share of its own largest entry; small entries are differences of large.

    `floor` is allowed besides.
    """
    apart = (found.double() - wanted.double()).abs().amax(1)
    share = ((apart - floor) / wanted.double().abs().amax(1)).max().item()
    assert share <= allowed, (share, allowed)
