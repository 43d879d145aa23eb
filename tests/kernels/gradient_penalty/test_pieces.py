"""Mixed images and the penalty of given gradients, against closed forms in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native, philox
from ssgear.kernels.forms import Implementation
from ssgear.kernels.gradient_penalty.forms import choose_form
from ssgear.kernels.gradient_penalty.penalty import CASES, Case
from ssgear.kernels.gradient_penalty.pieces import critic_batch, interpolate, sample_norm_penalty
from tests.kernels.gradient_penalty.oracle import (
    DTYPES,
    HERE,
    NOT_FINITE,
    check,
    check_not_finite,
    ours,
)

X = torch.ones(4, 3)


def images() -> tuple[Tensor, Tensor, Tensor]:
    real, fake, eps, _ = Case(shape=(7, 3, 4, 4)).make(torch.float32)
    return real, fake, eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("impl", HERE)
def test_passes_equal_closed_forms(impl: Implementation, case: Case, dtype: torch.dtype) -> None:
    check(ours(case, dtype, impl), case, dtype)


@pytest.mark.parametrize("impl", HERE)
def test_every_implementation_draws_the_same_weights(impl: Implementation) -> None:
    torch.manual_seed(3)
    key = int(torch.randint(2**63 - 1, ()))
    right = philox.uniform(key, torch.arange(67), 1)[:, 0]
    torch.manual_seed(3)
    drawn = interpolate(torch.ones(67, 2), torch.zeros(67, 2), impl=impl)
    assert torch.equal(drawn[:, 1], right)
    assert right.min() < 0.1 and right.max() > 0.9


@pytest.mark.parametrize("target", [0.0, 0.7])
@pytest.mark.parametrize("impl", HERE)
def test_derivatives_of_the_pieces(impl: Implementation, target: float) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    eps = torch.tensor([0.0, 0.3, 1.0])
    for function, inputs in (
        (lambda grad: sample_norm_penalty(grad, target, impl=impl), (real,)),
        (lambda a, b: interpolate(a, b, eps, impl=impl), (real, fake)),
        (lambda a: interpolate(a, fake.detach(), eps, impl=impl), (real,)),
    ):
        leaves = tuple(part.detach().requires_grad_() for part in inputs)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("impl", HERE)
def test_second_slope_at_zero_is_that_of_the_square(impl: Implementation) -> None:
    grad = torch.zeros(3, 4, 5, dtype=torch.float64, requires_grad=True)
    for target in (0.0, 1.0):
        value = sample_norm_penalty(grad, target, impl=impl)
        (slope,) = torch.autograd.grad(value, grad, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), grad)
        assert not slope.any()
        torch.testing.assert_close(curve, torch.full_like(curve, 2 / 3))


def test_bits_do_not_depend_on_threads_or_repetition() -> None:
    if not native.available():
        pytest.skip(native.reason())
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(ours(CASES[5], torch.float32, "cpp"))
    finally:
        torch.set_num_threads(threads)
    for field in vars(results[0]):
        first, *others = (getattr(result, field) for result in results)
        assert all(torch.equal(first, other) for other in others), field


def test_memory_order_is_kept() -> None:
    case = next(case for case in CASES if case.channels_last)
    real, fake, eps, grad = case.make(torch.float32)
    assert interpolate(real, fake, eps).is_contiguous(memory_format=torch.channels_last)
    for other in (fake.contiguous(), fake.flip(3).flip(3).transpose(2, 3).transpose(2, 3)):
        assert torch.equal(interpolate(real, other, eps), interpolate(real, fake, eps))
    sliced = torch.stack((grad, grad), 1)[:, 0]
    torch.testing.assert_close(sample_norm_penalty(sliced), sample_norm_penalty(grad))


def test_pieces_compile_as_one_graph() -> None:
    def pieces(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
        return sample_norm_penalty(interpolate(real, fake, eps), 0.5)

    real, fake, eps = images()
    whole = torch.compile(pieces, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(real, fake, eps), pieces(real, fake, eps))
    torch.compiler.reset()


def test_implementations_that_cannot_work_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    grad = torch.ones(2, 3)
    with pytest.raises(ArgumentError, match=r"triton.*not possible.*NVIDIA GPUs, and got cpu"):
        sample_norm_penalty(grad, impl="triton")
    with pytest.raises(ArgumentError, match=r"cpp.*got float16; use auto or reference"):
        sample_norm_penalty(grad.half(), impl="cpp")
    monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "reason", lambda: "no compiler")
    with pytest.raises(ArgumentError, match=r"cpp.*no compiler; use auto or reference"):
        sample_norm_penalty(grad, impl="cpp")
    assert choose_form("", "auto", grad) == "reference"
    assert sample_norm_penalty(grad.half()).dtype == torch.float32


@pytest.mark.parametrize("piece", [interpolate, critic_batch])
def test_bad_weights_are_the_called_function_s(piece: Callable[..., Tensor]) -> None:
    for options, message in (
        ({"eps": 2}, "eps=2; use a number or a tensor in"),
        ({"eps": torch.ones(4).to_sparse()}, "eps is torch.float32 of layout torch.sparse_coo"),
        ({"impl": "cp"}, r"unknown impl='cp' \(did you mean cpp\?\)"),
    ):
        with pytest.raises(ArgumentError, match=f"^{piece.__name__}: {message}"):
            piece(X, X, **options)


def test_out_is_checked() -> None:
    with pytest.raises(ArgumentError, match="out has no gradient to pass on"):
        interpolate(X.clone().requires_grad_(), X, 0.5, out=torch.empty(4, 3))
    with pytest.raises(ArgumentError, match="out has shape \\[4, 4\\]"):
        interpolate(X, X, 0.5, out=torch.empty(4, 4))
    with pytest.raises(ArgumentError, match="out has strides \\(1, 4\\)"):
        interpolate(X, X, 0.5, out=torch.empty(3, 4).T)


def test_compiled_operators_keep_their_contract() -> None:
    if not native.available():
        pytest.skip(native.reason())
    real, fake, eps, grad = CASES[6].make(torch.float32)
    ops, one = torch.ops.ssgear_native, torch.ones(())
    _, norm = ops.gradient_penalty(grad, 1.0)
    tests = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (ops.gradient_penalty_interpolate, (real, fake, eps, 5, torch.empty_like(real))),
        (ops.gradient_penalty, (grad, 1.0)),
        (ops.gradient_penalty_backward, (one, grad, norm, 1.0)),
        (ops.gradient_penalty_double_backward, (real, one, grad, norm, 1.0)),
    ):
        torch.library.opcheck(operator.default, arguments, test_utils=tests)


@pytest.mark.parametrize("target", [0.0, 0.7])
@pytest.mark.parametrize("impl", HERE)
def test_third_derivative(impl: Implementation, target: float) -> None:
    """Along a curve through the space of gradients, one of which is zero."""
    base = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base[1] = 0

    def derivatives(impl: Implementation) -> list[float]:
        t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        value, found = sample_norm_penalty((base * t.exp()).sin(), target, impl=impl), []
        for _ in range(3):
            (value,) = torch.autograd.grad(value, t, create_graph=True)
            found.append(value.item())
        return found

    assert derivatives(impl) == pytest.approx(derivatives("reference"), rel=1e-9)


@pytest.mark.parametrize("impl", HERE)
def test_out_may_overlap_an_input(impl: Implementation) -> None:
    real, fake, eps = images()
    right = interpolate(real, fake, eps, impl=impl)
    for shift in (-1, 0, 1):
        for place in (0, 1):
            memory = torch.zeros(9, *real.shape[1:])
            inputs = [real, fake]
            inputs[place] = memory[1:8].copy_(inputs[place])
            out = memory[1 + shift : 8 + shift]
            assert interpolate(*inputs, eps, out=out, impl=impl) is out
            assert torch.equal(out, right)


@pytest.mark.parametrize("impl", HERE)
def test_who_saved_what_out_overwrites_is_told(impl: Implementation) -> None:
    weight, out = torch.ones(4, 3, requires_grad=True), torch.ones(4, 3)
    loss = (weight * out).sum()
    interpolate(X, X, 0.5, out=out, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("impl", HERE)
def test_torchs_defaults_do_not_matter(impl: Implementation) -> None:
    real, fake, _ = images()

    def results() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        mixed = [interpolate(real, fake, eps, impl=impl) for eps in (0.3, None)]
        return *mixed, sample_norm_penalty(mixed[1], impl=impl)

    right = results()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for mine, wanted in zip(found, right, strict=True):
        assert mine.dtype == wanted.dtype and torch.equal(mine, wanted)


@pytest.mark.parametrize(("bad", "target"), NOT_FINITE)
@pytest.mark.parametrize("impl", HERE)
def test_what_is_not_finite_shows_in_its_sample_alone(
    impl: Implementation, bad: float, target: float
) -> None:
    check_not_finite(impl, bad, target)


@pytest.mark.skipif(not native.available(), reason="not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(6, 3, 256, 256), (7, 3, 299, 301)], ids=str)
def test_large_images_equal_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Larger than a core's cache, also where samples begin at odd places."""
    real, fake, direction = torch.randn(3, *shape).to(dtype)
    eps = torch.rand(shape[0])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight = eps.to(wide).view(-1, 1, 1, 1)
    wanted = (weight * real.to(wide) + (1 - weight) * fake.to(wide)).to(dtype)
    assert torch.equal(interpolate(real, fake, eps, impl="cpp"), wanted)
    leaf = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sample_norm_penalty(leaf, impl="cpp"), leaf, create_graph=True)
    norm = real.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    factor = 2 / shape[0] * (1 - 1 / norm)
    limit = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(slope.double(), factor * real.double(), rtol=limit, atol=0)
    (second,) = torch.autograd.grad(slope, leaf, direction)
    dot = (direction.double() * real.double()).sum((1, 2, 3), keepdim=True)
    right = factor * direction.double() + 2 / shape[0] * dot / norm**3 * real.double()
    torch.testing.assert_close(second.double(), right, rtol=limit, atol=limit * 1e-2)
