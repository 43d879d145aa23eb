"""LARS against a float64 loop, the rest against torch, groups, schedule, states to the bit."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ConfigError
from ssgear.optim import LARS, align_gradients, build_optimizer, schedule, set_lr


class Toy(nn.Module):
    """Convolution, norm, linear layer and a learned scalar, sizes odd on purpose."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 5)
        self.log_tau = nn.Parameter(torch.tensor(-1.5))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def gradients(step: int, shapes: list[torch.Size]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def take_step(optimizer: torch.optim.Optimizer, model: nn.Module, step: int) -> None:
    parameters = list(model.parameters())
    for parameter, gradient in zip(
        parameters, gradients(step, [p.shape for p in parameters]), strict=True
    ):
        parameter.grad = gradient
    optimizer.step()


def lars_in_float64(
    weights: list[Tensor], lrs: list[float], *, decay: float, eta: float, clip: bool
) -> list[Tensor]:
    """You et al. 2017 written out tensor by tensor."""
    weights = [w.double().clone() for w in weights]
    buffers = [torch.zeros_like(w) for w in weights]
    for step, lr in enumerate(lrs):
        for w, v, g32 in zip(
            weights, buffers, gradients(step, [w.shape for w in weights]), strict=True
        ):
            g, ratio = g32.double(), 1.0
            if w.ndim > 1:
                w_norm, g_norm = math.sqrt((w * w).sum()), math.sqrt((g * g).sum())
                if w_norm > 0 and g_norm > 0:
                    ratio = eta * w_norm / (g_norm + decay * w_norm + 1e-8)
                    ratio = min(ratio / lr, 1.0) if clip else ratio
                g = g + decay * w
            v.mul_(0.9).add_(ratio * g)
            w.sub_(lr * v)
    return weights


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.02, 0.5])
@pytest.mark.parametrize("lr", [0.001, 0.4])
def test_lars_equals_the_float64_loop(clip: bool, eta: float, lr: float) -> None:
    model = Toy()
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = LARS(model.parameters(), lr=lr, weight_decay=0.1, eta=eta, clip=clip)
    lrs = [lr, lr / 3, lr * 2, lr]
    for step, value in enumerate(lrs):
        set_lr(optimizer, value, 1.0, 0.0)
        take_step(optimizer, model, step)
    expected = lars_in_float64(start, lrs, decay=0.1, eta=eta, clip=clip)
    for got, want in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=2e-6)


def test_lars_takes_zero_weights_zero_gradients_and_zero_rate() -> None:
    weight = nn.Parameter(torch.zeros(3, 5))
    optimizer = LARS([weight], lr=0.1, weight_decay=1e-4)
    weight.grad = torch.ones(3, 5)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 5), -0.1))
    weight.grad = torch.zeros(3, 5)
    set_lr(optimizer, 0.1, 0.0, 0.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 5), -0.1))
    assert torch.isfinite(optimizer.state[weight]["momentum_buffer"]).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "adam"])
def test_memory_order_of_a_gradient_does_not_matter(name: str, fused: bool) -> None:
    start = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone().to(memory_format=order))
        optimizer = build_optimizer(
            [("w", weight)], name=name, lr=0.1, weight_decay=0.1, momentum=0.9, fused=fused
        )
        for step in range(3):
            weight.grad = gradients(step, [weight.shape])[0]
            if fused:
                align_gradients([weight])
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_torch_optimizers_with_the_same_groups(name: str, fused: bool) -> None:
    model, other = Toy(), Toy()
    optimizer = build_optimizer(
        model.named_parameters(), name=name, lr=0.01, weight_decay=0.3, momentum=0.8, fused=fused
    )
    decayed = [other.conv.weight, other.head.weight]
    rest = [p for p in other.parameters() if all(p is not d for d in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    reference: torch.optim.Optimizer
    if name == "sgd":
        reference = torch.optim.SGD(groups, lr=0.01, momentum=0.8)
    elif name == "adamw":
        reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.999))
    else:
        reference = torch.optim.Adam(groups, lr=0.01, betas=(0.8, 0.999))
    for step in range(4):
        take_step(optimizer, model, step)
        take_step(reference, other, step)
    for got, want in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_groups_by_decay_and_scale() -> None:
    model = Toy()
    model.conv.bias = None
    scales = {"head": lambda progress: 1.0 - progress, "head.bias": lambda progress: 10.0}
    optimizer = build_optimizer(
        model.named_parameters(),
        name="lars",
        lr=1.0,
        weight_decay=0.2,
        momentum=0.9,
        scales=tuple(scales),
    )
    names = {id(p): n for n, p in model.named_parameters()}
    seen = [
        (g["scale"], g["weight_decay"], [names[id(p)] for p in g["params"]])
        for g in optimizer.param_groups
    ]
    assert seen == [
        ("", 0.0, ["log_tau", "norm.weight", "norm.bias"]),
        ("", 0.2, ["conv.weight"]),
        ("head", 0.2, ["head.weight"]),
        ("head.bias", 0.0, ["head.bias"]),
    ]
    set_lr(optimizer, 0.5, 0.5, 0.75, scales=scales)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25, 0.0625, 2.5]


def test_what_cannot_be_built_is_refused() -> None:
    named = [("head.weight", nn.Parameter(torch.ones(3, 3)))]
    with pytest.raises(ConfigError, match=r"did you mean adamw\?"):
        build_optimizer(named, name="adamm_w", lr=1.0, weight_decay=0.0, momentum=0.9)
    with pytest.raises(ConfigError, match="'hea'"):
        build_optimizer(named, name="sgd", lr=1.0, weight_decay=0.0, momentum=0.9, scales=("hea",))
    named[0][1].requires_grad_(False)
    with pytest.raises(ConfigError, match="without a trained parameter"):
        build_optimizer(named, name="sgd", lr=1.0, weight_decay=0.0, momentum=0.9)


def test_schedule_values() -> None:
    got = [schedule(step, total_steps=12, warmup_steps=4) for step in range(14)]
    cosine = [0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8)]
    assert got == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine, 0.0, 0.0], abs=1e-15)
    assert schedule(0, total_steps=5, warmup_steps=0) == 1.0
    assert schedule(2, total_steps=3, warmup_steps=9) == pytest.approx(1 / 3)
    assert schedule(9, total_steps=9, warmup_steps=9) == 1.0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "adam"])
def test_state_round_trip_continues_to_the_bit(name: str, fused: bool) -> None:
    def build(model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(
            model.named_parameters(),
            name=name,
            lr=0.03,
            weight_decay=0.1,
            momentum=0.9,
            fused=fused,
        )

    model = Toy()
    optimizer = build(model)
    for step in range(3):
        take_step(optimizer, model, step)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = copy.deepcopy(model)
    other.load_state_dict(weights)
    resumed = build(other)
    resumed.load_state_dict(state)
    for step in range(3, 6):
        take_step(optimizer, model, step)
        take_step(resumed, other, step)
    for got, want in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(got, want)
