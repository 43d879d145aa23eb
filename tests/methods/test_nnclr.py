"""NNCLR against its formula in float64: the neighbour, the loss, the queue after three steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.nnclr import NNCLR
from tests.methods.tiny import ROWS, batch, build, classify, gradients, same, train, unit

SMALL: dict[str, Any] = {"projector_dims": (16, 5), "predictor_dim": 7, "queue_length": 18}


def formula(method: NNCLR) -> Tensor:
    """Return the loss; the neighbour is the row of the queue at the smallest distance."""
    zs = [method.projector(method.encoder(view)) for view in batch().views]
    ps = [method.predictor(z) for z in zs]
    queue, own = method.queue.rows, torch.arange(ROWS)
    near = [queue[torch.cdist(unit(z.detach()), queue).argmin(1)] for z in zs]
    tau = method.config.temperature
    return (classify(near[0], ps[1], tau, own) + classify(near[1], ps[0], tau, own)) / 2


@pytest.mark.parametrize("temperature", [0.1, 0.02])
def test_loss_and_gradients_are_those_of_the_formula(temperature: float) -> None:
    method, twin = (build("nnclr", **SMALL, temperature=temperature) for _ in range(2))
    terms, expected = method.loss(method.phases[0], batch()), formula(twin)
    torch.testing.assert_close(terms.total.double(), expected, rtol=1e-6, atol=1e-7)
    found = gradients(method, terms.total)
    same(found, gradients(twin, expected))
    assert all(grad is not None for grad in found.values())


def test_a_projection_in_the_queue_is_its_own_neighbour() -> None:
    method = build("nnclr", **SMALL)
    (phase,) = method.phases
    twin = copy.deepcopy(method)
    terms = method.loss(phase, batch())
    method.after_step(phase, terms.carry, 0.0)
    units = unit(twin.embed(phase, batch()).targets[0])
    torch.testing.assert_close(method.queue.nearest(units), units, rtol=1e-6, atol=1e-7)


def test_the_queue_after_three_steps() -> None:
    method = build("nnclr", **{**SMALL, "queue_length": 12})
    seen: list[Tensor] = []

    def look(given: Batch) -> None:
        twin = copy.deepcopy(method)
        with torch.no_grad():
            seen.append(unit(twin.projector(twin.encoder(given.views[0]))))

    train(method, look, lambda progress: None)
    first, second = method.queue.rows.split(ROWS)
    torch.testing.assert_close(first, seen[2], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(second, seen[1], rtol=1e-6, atol=1e-7)


def test_neighbours_get_no_gradient() -> None:
    method = build("nnclr", **SMALL)
    zs = method.embed(method.phases[0], batch())
    assert all(z.requires_grad for z in zs.online) and len(zs.online) == 2
    assert not any(z.requires_grad for z in zs.targets) and len(zs.targets) == 2
    terms = method.loss_of(method.phases[0], zs, batch())
    assert not terms.carry["projections"].requires_grad
    terms.total.backward()
    assert method.queue.rows.grad is None


def test_a_queue_that_batches_do_not_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--method\.queue-length: 18 is no multiple of the 7 im"):
        build("nnclr", batch_size=7, **SMALL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "--method.temperature: -1.0 is not possible; use a value above 0"),
        ({"queue_length": 0}, "--method.queue-length: 0 is not possible; use 1 or more"),
        ({"projector_dims": ()}, "--method.projector-dims: () is not possible"),
        ({"predictor_dim": 0}, "--method.predictor-dim: 0 is not possible; use 1 or more"),
    ],
)
def test_refusals(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NNCLR.Config(**settings)
    assert str(caught.value).startswith(said)
