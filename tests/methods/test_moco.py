"""MoCo against its formulas in float64: losses, gradients, queue and momentum after three steps."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.moco import MoCo
from tests.methods import gan
from tests.methods.tiny import (
    ROWS,
    Follower,
    batch,
    build,
    classify,
    gradients,
    m_of,
    pick_first,
    same,
    train,
    unit,
)

SMALL: dict[str, Any] = {"queue_length": 12, "projector_dims": (16, 5)}
V3: dict[str, Any] = {"version": "v3", "projector_dims": (16, 5), "predictor_dim": 7}


def moco(**settings: Any) -> MoCo:
    method = build(
        "moco", **({**V3, **settings} if "version" in settings else {**SMALL, **settings})
    )
    with torch.no_grad():  # a momentum encoder that is another network
        for weight in method.parameters():
            weight.mul_(1.1).add_(0.01)
    return method


def oracle(method: MoCo) -> torch.Tensor:
    """Return the loss by the formula, the momentum encoder a deep copy with its weights."""
    twin, views, config = copy.deepcopy(method), batch().views, method.config
    state = {name.replace("/", "."): value for name, value in method.momentum.named_buffers()}
    encoder = nn.Sequential(twin.encoder, twin.projector)
    encoder.load_state_dict(state)
    with torch.no_grad():
        k1, k2 = (encoder(view) for view in views)
    q1, q2 = (method.predictor(method.projector(method.encoder(view))) for view in views)
    tau = config.temperature
    if config.version == "v3":
        own = torch.arange(ROWS)
        return 2 * tau * (classify(q1, k2, tau, own) + classify(q2, k1, tau, own))
    assert method.queue is not None
    queue = method.queue.rows
    if not config.symmetric:
        return pick_first(q1, k2, queue, tau)
    return (pick_first(q1, k2, queue, tau) + pick_first(q2, k1, queue, tau)) / 2


@pytest.mark.parametrize(
    "settings",
    [{}, {"symmetric": False}, {"temperature": 0.02}, {"version": "v3", "temperature": 0.5}],
    ids=lambda settings: str(settings),
)
def test_loss_and_gradients_are_those_of_the_formula(settings: dict[str, Any]) -> None:
    method, twin = moco(**settings), moco(**settings)
    terms = method.loss(method.phases[0], batch())
    expected = oracle(twin)
    torch.testing.assert_close(terms.total.double(), expected, rtol=1e-6, atol=1e-7)
    found = gradients(method, terms.total)
    same(found, gradients(twin, expected))
    assert all(grad is not None for grad in found.values())


def test_the_momentum_branch_has_no_parameters_and_the_queue_no_gradient() -> None:
    method = moco()
    assert not list(method.momentum.parameters())
    buffers = dict(method.named_buffers())
    gradients(method, method.loss(method.phases[0], batch()).total)
    assert all(buffer.grad is None and not buffer.requires_grad for buffer in buffers.values())
    names = [name for name, _ in method.groups[0].named_parameters()]
    assert {name.split(".")[1] for name in names} == {"encoder", "projector"}


@pytest.mark.parametrize("symmetric", [True, False])
def test_queue_and_momentum_encoder_after_three_steps(symmetric: bool) -> None:
    method = build("moco", **SMALL, symmetric=symmetric, momentum=0.8, final_momentum=0.6)
    follower, keys = Follower(method.encoder, method.projector), []

    def look(given: Batch) -> None:
        if symmetric:
            follower(given.views[0])  # its batch statistics move on this view too
        keys.append(unit(follower(given.views[1])))

    train(method, look, lambda progress: follower.follow(m_of(0.8, progress, 0.6)))
    first, second = method.queue.rows.split(ROWS)
    torch.testing.assert_close(first, keys[2], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(second, keys[1], rtol=1e-6, atol=1e-7)
    follower.expect(method.momentum)


@pytest.mark.parametrize("normed", [False, True])
def test_the_predictor_of_v3_ends_as_the_authors_do(normed: bool) -> None:
    """For a ResNet with a linear layer; for a ViT with a norm of no scale and no shift."""
    method = build("moco", **V3, predictor_norm=normed)
    layers = [layer for layer in method.predictor if list(layer.parameters())]
    first, norm, last = layers
    z = torch.randn(9, 5, dtype=torch.float64)
    hidden = z @ first.weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + norm.eps).sqrt()
    wanted = hidden.relu() @ last.weight.T
    if normed:
        wanted = (wanted - wanted.mean(0)) / (wanted.var(0, correction=0) + norm.eps).sqrt()
    else:
        wanted = wanted + last.bias
    torch.testing.assert_close(method.predictor(z), wanted)


def test_a_queue_that_batches_do_not_fill_is_refused(
    run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--method\.queue-length: 12 is no multiple of the 5"):
        build("moco", batch_size=5, **SMALL)
    assert build("moco", batch_size=5, **V3).queue is None
    output = tmp_path / "run"
    outcome = run_ssgear("train", "--method", "moco", "--optim.batch-size", 48, "--output", output)
    assert outcome.status == 2
    assert outcome.complaint.endswith(
        "--method.queue-length: 1024 is no multiple of the 48 images of a step over all ranks "
        "(--optim.batch-size); use 1008 or 1056"
    )
    assert not output.exists()


@pytest.mark.parametrize("condition", ["none", "label"])
def test_it_trains_the_encoder_of_gan_ssl(condition: str) -> None:
    """Synthetic images among its rows, or as a third view; queue and momentum move there too."""
    options = ("queue_length=12", "projector_dims=16,8", "momentum=0.5")
    method = gan.build(ssl="moco", ssl_options=options, condition=condition)
    inner, phase = method.ssl, gan.phase_named(method, "encoder")
    given = gan.make_batch(method, "encoder")
    before = gan.weights_of(inner)
    terms = method.loss(phase, given)
    terms.total.backward()
    with torch.no_grad():
        for weight in inner.projector.parameters():
            weight.sub_(weight.grad)
    method.after_step(phase, terms.carry, 0.0)
    pushed = 2 * gan.ROWS if condition == "none" else gan.ROWS
    assert inner.queue.filled == pushed and inner.queue.place == pushed % 12
    name = "1/0.weight".replace(".", "/")
    expected = (before[f"momentum.{name}"] + inner.projector[0].weight.detach()) / 2
    torch.testing.assert_close(inner.momentum.get_buffer(name), expected)
    assert method.card.collapse_hint == inner.card.collapse_hint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "--method.temperature: 0.0 is not possible; use a value above 0"),
        ({"temperature": math.nan}, "--method.temperature: nan is not possible"),
        ({"temperature": 1e39}, "--method.temperature: 1e+39 is not possible; use a value that"),
        ({"momentum": 1.5}, "--method.momentum: 1.5 is not possible; use a value in [0, 1]"),
        ({"final_momentum": -1.0}, "--method.final-momentum: -1.0 is not possible"),
        ({"projector_dims": ()}, "--method.projector-dims: () is not possible; give at least one"),
        ({"projector_dims": (8, 0)}, "--method.projector-dims: (8, 0) is not possible"),
        ({"predictor_dim": 0}, "--method.predictor-dim: 0 is not possible; use 1 or more"),
        ({"queue_length": 0}, "--method.queue-length: 0 is not possible; use 1 or more"),
        ({"version": "v3", "symmetric": False}, "--method.symmetric: False is not possible; it is "
         "for --method.version v2; leave it away (it is True then)"),
        ({"version": "v3", "queue_length": 512}, "--method.queue-length: 512 is not possible; it "
         "is for --method.version v2; leave it away (it is 65536 then)"),
        ({"predictor_dim": 256}, "--method.predictor-dim: 256 is not possible; it is for "
         "--method.version v3; leave it away (it is 4096 then)"),
        ({"predictor_norm": True}, "--method.predictor-norm: True is not possible; it is for "
         "--method.version v3; leave it away (it is False then)"),
    ],
)  # fmt: skip
def test_refusals(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MoCo.Config(**settings)
    assert str(caught.value).startswith(said)


def test_the_queue_of_the_quick_preset_stays_behind_in_v3(run_ssgear: Callable[..., Any]) -> None:
    """A preset is no one's word: what argv switches off falls away with it, argv's own does not."""
    argv = ("train", "--method", "moco", "--method.version", "v3", "--dry-run")
    outcome = run_ssgear(*argv)
    assert outcome.status == 0 and json.loads(outcome.out)["method"]["queue_length"] == 65536
    outcome = run_ssgear(*argv, "--method.queue-length", 512)
    assert outcome.status == 2 and outcome.complaint.startswith(
        "ssgear: --method.queue-length: 512 is not possible; it is for --method.version v2"
    )


def test_zero_3_is_refused(run_ssgear: Callable[..., Any], tmp_path: Path) -> None:
    ds = tmp_path / "ds.json"
    ds.write_text('{"zero_optimization": {"stage": 3}}')
    outcome = run_ssgear("train", "--method", "moco", "--deepspeed", ds, "--dry-run")
    assert outcome.status == 2 and "that moco's momentum encoder follows; use stage 2" in (
        outcome.complaint
    )
