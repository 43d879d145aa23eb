"""The gradient penalty of critics against plain autograd, compiled or not, and its errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.kernels.forms import Implementation
from ssgear.kernels.gradient_penalty.penalty import gradient_penalty
from ssgear.kernels.gradient_penalty.pieces import critic_batch, interpolate, sample_norm_penalty
from tests.kernels.gradient_penalty.oracle import HERE


def mlp(act: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), act(), nn.Linear(9, 1))


def conv(act: Callable[[], nn.Module] = nn.Softplus) -> nn.Module:
    torch.manual_seed(6)
    layers = (nn.Conv2d(3, 5, 3, padding=1), act(), nn.Conv2d(5, 4, 3, stride=2), act())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))


def images(dtype: torch.dtype = torch.float64, num: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    real, fake = torch.randn(2, num, 3, 4, 4, generator=generator, dtype=torch.float64).to(dtype)
    return real, fake, torch.rand(num, generator=generator)


def plain_penalty(critic: Callable[[Tensor], Tensor], x: Tensor, target: float = 1.0) -> Tensor:
    x = x if x.requires_grad else x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return ((grad.flatten(1).norm(dim=1) - target) ** 2).mean()


def slopes(critic: nn.Module, penalty: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(10 * penalty, list(critic.parameters()), allow_unused=True)
    pairs = zip(found, critic.parameters(), strict=True)
    return [torch.zeros_like(p) if grad is None else grad for grad, p in pairs]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("at", "target"), [("mixed", 1.0), ("mixed", 0.3), ("generated", 1.0), ("real", 0.0)]
)
@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("impl", HERE)
def test_parameter_gradients(
    impl: Implementation, make: Any, at: Any, target: float, dtype: torch.dtype
) -> None:
    real, fake, eps = images()
    weight = eps.double().view(-1, 1, 1, 1)
    x = {"mixed": weight * real + (1 - weight) * fake, "generated": fake, "real": real}[at]
    right = plain_penalty(make().double(), x, target)
    critic = make().to(dtype)
    given = {"eps": eps} if at == "mixed" else {}
    penalty = gradient_penalty(
        critic, real.to(dtype), fake.to(dtype), at=at, target=target, impl=impl, **given
    )
    assert penalty.dtype == torch.float32 and penalty.shape == ()
    torch.testing.assert_close(penalty.double(), right, rtol=1e-5, atol=1e-7)
    reference = make().double()
    wanted = slopes(reference, plain_penalty(reference, x, target))
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    for mine, truth in zip(slopes(critic, penalty), wanted, strict=True):
        off = (mine.double() - truth).abs().max().item()
        assert off <= tolerance * max(truth.abs().max().item(), 1e-3), off


@pytest.mark.parametrize("impl", HERE)
def test_gradients_reach_images_that_require_them(impl: Implementation) -> None:
    real, fake, eps = images()
    weight = eps.double().view(-1, 1, 1, 1)
    for at in ("mixed", "generated"):
        grads = []
        for mine in (True, False):
            latent = fake.clone().requires_grad_()
            made = latent.sin()
            mixed = made if at == "generated" else weight * real + (1 - weight) * made
            given = {"eps": eps} if at == "mixed" else {}
            penalty = (
                gradient_penalty(conv().double(), real, made, at=at, impl=impl, **given)  # type: ignore[arg-type]
                if mine
                else plain_penalty(conv().double(), mixed)
            )
            grads += torch.autograd.grad(penalty, latent)
        assert grads[1].abs().max() > 0
        torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    real.requires_grad_()
    gradient_penalty(conv().double(), real, None, at="real", target=0.0, impl=impl).backward()
    assert real.grad is not None and real.grad.any()


@pytest.mark.parametrize("impl", HERE)
def test_a_condition_is_passed_on(impl: Implementation) -> None:
    real, fake, eps = images()
    labels = torch.arange(7) % 3
    critic = conv().double()

    def conditional(x: Tensor, condition: Tensor) -> Tensor:
        return critic(x) * (1 + condition)

    mine = gradient_penalty(conditional, real, fake, condition=labels, eps=eps, impl=impl)
    weight = eps.double().view(-1, 1, 1, 1)
    mixed = weight * real + (1 - weight) * fake
    right = plain_penalty(lambda x: conditional(x, labels), mixed)
    torch.testing.assert_close(mine.double(), right, rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("impl", HERE)
def test_a_zero_gradient_has_no_slope(impl: Implementation, target: float) -> None:
    """Sample 2 is where the critic is flat; its norm counts as constant, nothing is NaN."""
    weight = torch.tensor([[0.5], [2.0]], requires_grad=True)

    def critic(x: Tensor) -> Tensor:
        return (x @ weight).relu()

    real = torch.tensor([[1.0, 1.0], [2.0, 3.0], [-4.0, -1.0]])
    penalty = gradient_penalty(critic, real, None, at="real", target=target, impl=impl)
    norm = weight.detach().norm()
    assert penalty.item() == pytest.approx((2 * (norm - target) ** 2 + target**2).item() / 3)
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 / 3 * 2 * (1 - target / norm) * weight.detach())


@pytest.mark.parametrize("impl", HERE)
def test_drawn_weights_are_repeated_by_the_seed(impl: Implementation) -> None:
    real, fake, _ = images(torch.float32)
    critic, values = conv(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(gradient_penalty(critic, real, fake, impl=impl).item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", HERE)
def test_one_batch_for_the_critic(impl: Implementation, dtype: torch.dtype) -> None:
    real, fake, eps = images(dtype)
    batch = critic_batch(real, fake, eps, impl=impl)
    wanted = torch.cat((real, fake, interpolate(real, fake, eps, impl=impl)))
    assert torch.equal(batch, wanted)
    again = critic_batch(real, fake.clone().requires_grad_(), eps, impl=impl)
    assert again.requires_grad and torch.equal(again, wanted)
    if dtype == torch.float32:
        batch.requires_grad_()
        scores = conv()(batch)[14:]
        (grad,) = torch.autograd.grad(scores.sum(), batch, create_graph=True)
        assert not grad[:14].any()
        mine = sample_norm_penalty(grad[14:], impl=impl)
        right = gradient_penalty(conv(), real, fake, eps=eps, impl=impl)
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-8)


def compiled_critics() -> Iterator[tuple[str, nn.Module, Callable[[Tensor], Tensor]]]:
    """Ways in which a critic can be compiled, each with its parameters."""
    options: dict[str, Any] = {"backend": "aot_eager"}
    critic = conv().double()
    yield "a wrapper", critic, torch.compile(critic, **options)
    critic = conv().double()
    critic.compile(**options)
    yield "in place", critic, critic
    critic = conv().double()
    critic[0].compile(**options)
    yield "a part", critic, critic
    critic = conv().double()
    hidden = torch.compile(lambda x: critic(x), **options)
    yield "out of sight", critic, lambda x: 2 * hidden(x) / 2


def test_compiled_critics_get_the_gradients_of_eager_ones() -> None:
    """Compiled code has no second derivative; PyTorch once dropped it without a word."""
    real, fake, eps = images()
    eager = conv().double()
    right = slopes(eager, gradient_penalty(eager, real, fake, eps=eps))
    assert all(slope.any() for slope in right[:-1])
    for what, critic, compiled in compiled_critics():
        compiled(real).sum().backward()  # compiled by now
        found = slopes(critic, gradient_penalty(compiled, real, fake, eps=eps))
        for mine, truth in zip(found, right, strict=True):
            torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-12, msg=what)
        assert compiled(real).isfinite().all(), "compiled as before outside"
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_inside_compiled_code(backend: str) -> None:
    real, fake, eps = images()
    critic = conv().double()

    def step(fake: Tensor) -> Tensor:
        return 2 * gradient_penalty(critic, real, fake.sin(), eps=eps)

    results = []
    for call in (step, torch.compile(step, backend=backend)):
        leaf = fake.clone().requires_grad_()
        loss = call(leaf)
        results.append([*torch.autograd.grad(loss, [leaf, critic[0].weight, critic[2].weight])])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)
    torch.compiler.reset()


def test_under_functorch_the_pieces_are_right() -> None:
    real, _, _ = images()
    critic = conv().double()
    weights = {name: p.detach() for name, p in critic.named_parameters()}

    def penalty(weights: dict[str, Tensor]) -> Tensor:
        def score(x: Tensor) -> Tensor:
            return torch.func.functional_call(critic, weights, (x,)).sum()

        return sample_norm_penalty(torch.func.grad(score)(real))

    found = torch.func.grad(penalty)(weights)
    right = slopes(critic, gradient_penalty(critic, real, None, at="real"))
    torch.testing.assert_close([10 * slope for slope in found.values()], right)


def test_autocast() -> None:
    real, fake, eps = images(torch.float32)
    critic = conv()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = gradient_penalty(critic, real, fake, eps=eps)
    right = gradient_penalty(critic, real, fake, eps=eps)
    torch.testing.assert_close(penalty, right, rtol=0.05, atol=0)
    assert all(slope.isfinite().all() for slope in slopes(critic, penalty))


def test_inference_tensors_can_be_looked_at() -> None:
    with torch.inference_mode():
        real, fake, eps = images(torch.float32)
    assert gradient_penalty(conv(), real, fake, eps=eps.clone()).isfinite()
    assert gradient_penalty(conv(), real, None, at="real").isfinite()


X = torch.ones(4, 3)


def linear(x: Tensor) -> Tensor:
    return (x * torch.arange(1.0, 4, requires_grad=True)).sum(1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((linear, X, torch.ones(3, 3)), {}, "fake has shape \\[3, 3\\], real has \\[4, 3\\]"),
        ((linear, X, X.double()), {}, "fake has dtype torch.float64, real has torch.float32"),
        ((linear, X, X.to("meta")), {}, "fake has device meta, real has cpu"),
        ((linear, X.long(), X), {}, "real is torch.int64; use a floating-point tensor"),
        ((linear, X, None), {}, "fake is a NoneType"),
        ((linear, None, X), {"at": "real"}, "real is a NoneType"),
        ((linear, X[0], X[0]), {}, "real has shape \\[3\\]; use \\[N, ...\\]"),
        ((linear, X[:0], X[:0]), {}, "real has shape \\[0, 3\\]"),
        ((linear, X, X), {"at": "mixd"}, "at='mixd' \\(did you mean mixed\\?\\); use one of mixed"),
        ((linear, X, X), {"impl": "tritn"}, "impl='tritn' \\(did you mean triton\\?\\)"),
        ((linear, X, X), {"target": -1.0}, "target=-1.0; use a finite number of at least 0"),
        ((linear, X, X), {"target": math.nan}, "target=nan"),
        ((linear, X, X), {"target": "one"}, "target='one'"),
        ((linear, X, X), {"target": 10**400}, "target=10*\\.\\.\\.; use a finite number"),
        ((linear, X.to_sparse(), X), {}, "real is torch.float32 of layout torch.sparse_coo"),
        ((linear, X.to(torch.float8_e5m2), X), {}, "real is torch.float8_e5m2; use a floating"),
        ((linear, X, X), {"eps": torch.ones(3)}, "eps is torch.float32 \\[3\\].*point \\[4\\]"),
        ((linear, X, X), {"eps": torch.ones(4).long()}, "eps is torch.int64"),
        ((linear, X, X), {"eps": torch.ones(4).to_sparse()}, "eps is .* of layout torch.sparse"),
        ((linear, X, X), {"eps": torch.ones(4).to(torch.float8_e5m2)}, "eps is torch.float8_e5m2"),
        ((linear, X, X), {"target": torch.ones(2, 2)}, "target=tensor\\(.*; use a finite number"),
        ((linear, X, X), {"at": X.numpy()}, "unknown at=array\\(.*; use one of mixed, gen"),
        ((linear, X, X), {"impl": X}, "unknown impl=tensor\\(.*; use one of auto, ref"),
        ((linear, X, X), {"eps": torch.tensor([0, 1, 2.0, 0])}, "eps has values from 0 to 2"),
        ((linear, X, X), {"eps": torch.ones(4, requires_grad=True)}, "eps requires a gradient"),
        ((linear, X, X), {"eps": 1.5}, "eps=1.5; use a number or a tensor in \\[0, 1\\]"),
        ((linear, X, X), {"eps": 0.5, "at": "real"}, "eps is given and at='real' mixes nothing"),
        (("critic", X, X), {}, "critic is a str"),
        ((lambda x: x, X, X), {}, "returned shape \\[4, 3\\] for 4 samples; use \\[4\\] or"),
        ((lambda x: x.sum(), X, X), {}, "returned shape \\[\\] for 4 samples"),
        ((lambda x: None, X, X), {}, "critic returned a NoneType"),
        ((lambda x: linear(x) * 1j, X, X), {}, "critic returned torch.complex64; use floating"),
        ((lambda x: linear(x).long(), X, X), {}, "critic returned torch.int64; use floating"),
        ((lambda x: linear(x).to_sparse(), X, X), {}, "critic returned torch.float32 of layout"),
        ((lambda x: linear(x.detach()), X, X), {}, "scores do not depend on it; look for no_grad"),
        ((torch.no_grad()(linear), X, X), {}, "its scores have no graph; look for no_grad"),
    ],
)
def test_bad_arguments_are_named_in_one_line(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as raised:
        gradient_penalty(*arguments, **options)
    assert "\n" not in str(raised.value) and str(raised.value).startswith("gradient_penalty: ")


def test_without_a_graph_there_is_no_penalty() -> None:
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode, pytest.raises(ArgumentError, match=r"called under torch\.no_grad"):
            gradient_penalty(linear, X, X)


@pytest.mark.parametrize("at", ["mixed", "generated"])
@pytest.mark.parametrize("impl", HERE)
def test_a_critic_must_leave_its_input_alone(impl: Implementation, at: Any) -> None:
    made = torch.randn(4, 3, requires_grad=True) * 1.0
    for change in (lambda x: x.sub_(0.5), lambda x: x[:, 1].mul_(2), lambda x: x.view(-1).exp_()):

        def critic(x: Tensor, change: Any = change) -> Tensor:
            change(x)
            return linear(x)

        with pytest.raises(ArgumentError, match="critic changed its input in place"):
            gradient_penalty(critic, X, made, at=at, impl=impl)


@pytest.mark.parametrize("impl", HERE)
def test_images_are_left_as_they_are(impl: Implementation) -> None:
    real, fake, _ = images(torch.float32)
    copies = real.clone(), fake.clone()
    for at in ("mixed", "generated", "real"):
        gradient_penalty(conv(), real, fake, at=at, impl=impl).backward()  # type: ignore[arg-type]
        for image, copy in zip((real, fake), copies, strict=True):
            assert torch.equal(image, copy)
            assert not image.requires_grad and image.grad is None
