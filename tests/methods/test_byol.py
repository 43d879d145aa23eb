"""BYOL against its formula in float64, what gets no gradient, and the momentum encoder's way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssgear.data.augment.spec import BYOL_FIRST, BYOL_SECOND, view_set
from ssgear.errors import ConfigError
from ssgear.methods.byol import BYOL
from tests.methods.tiny import Follower, batch, build, gradients, m_of, same, train, unit

SMALL: dict[str, Any] = {"projector_dims": (16, 5), "predictor_dim": 7}


def byol() -> BYOL:
    method = build("byol", **SMALL)
    with torch.no_grad():  # a momentum encoder that is another network
        for weight in method.parameters():
            weight.mul_(1.1).add_(0.01)
    return method


def online(method: BYOL, view: Tensor) -> Tensor:
    return method.predictor(method.projector(method.encoder(view)))


@pytest.mark.parametrize("views", [2, 3])
def test_loss_and_gradients_are_those_of_the_formula(views: int) -> None:
    method, twin, given = byol(), byol(), batch(views=views)
    target = nn.Sequential(*copy.deepcopy((twin.encoder, twin.projector)))
    named = method.momentum.named_buffers()
    target.load_state_dict({name.replace("/", "."): value for name, value in named})
    with torch.no_grad():
        targets = [unit(target(view)) for view in given.views]
    predictions = [unit(online(twin, view)) for view in given.views]
    pairs = [(p, t) for i, p in enumerate(predictions) for j, t in enumerate(targets) if i != j]
    # both directions added, as the paper has it; with three views twice the mean of the six
    distances = torch.stack([((p - t) ** 2).sum(1).mean() for p, t in pairs])
    expected = distances.sum() if views == 2 else 2 * distances.mean()
    terms = method.loss(method.phases[0], given)
    torch.testing.assert_close(terms.total.double(), expected, rtol=1e-6, atol=1e-7)
    found = gradients(method, terms.total)
    same(found, gradients(twin, expected))
    assert all(grad is not None for grad in found.values())


def test_targets_get_no_gradient() -> None:
    method = byol()
    zs = method.embed(method.phases[0], batch())
    assert all(z.requires_grad for z in zs.online) and len(zs.online) == 2
    assert not any(z.requires_grad for z in zs.targets) and len(zs.targets) == 2
    method.loss_of(method.phases[0], zs, batch()).total.backward()
    assert not list(method.momentum.parameters())


def test_the_momentum_encoder_after_three_steps() -> None:
    method = build("byol", **SMALL, momentum=0.7, final_momentum=0.9)
    follower = Follower(method.encoder, method.projector)

    def look(given: Any) -> None:
        for view in given.views:
            follower(view)

    train(method, look, lambda progress: follower.follow(m_of(0.7, progress, 0.9)))
    follower.expect(method.momentum)


def test_the_two_views_are_made_differently() -> None:
    method = byol()
    assert method.view_specs(view_set("byol")) == (BYOL_FIRST, BYOL_SECOND)
    assert len(method.view_specs(view_set("simclr"))) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"momentum": -0.1}, "--method.momentum: -0.1 is not possible; use a value in [0, 1]"),
        ({"final_momentum": 2.0}, "--method.final-momentum: 2.0 is not possible"),
        ({"projector_dims": (0,)}, "--method.projector-dims: (0,) is not possible"),
        ({"predictor_dim": 0}, "--method.predictor-dim: 0 is not possible; use 1 or more"),
    ],
)
def test_refusals(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BYOL.Config(**settings)
    assert str(caught.value).startswith(said)
