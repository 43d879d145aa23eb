"""NT-Xent against a float64 oracle: at most twice the dense expression's error, plus rounding."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import fields
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.nt_xent.loss import CASES, Case, Implementation, nt_xent
from ssgear.kernels.nt_xent.streaming import nt_xent_backward, nt_xent_forward
from tests.kernels.nt_xent.oracle import Result, assert_rows_close, eager, oracle

EPS = torch.finfo(torch.float32).eps
BUILT = pytest.mark.skipif(not native.available(), reason=native.reason())
FAST = ["streaming", pytest.param("cpp", marks=BUILT)]
FORMS = ["reference", *FAST]
ORDERS = 16
SMALL = Case(rows=38, width=11, temperature=0.2)


def ours(z: Tensor, tau: float, **options: Any) -> Result:
    z = z.detach().requires_grad_()
    tensor_tau = torch.tensor(tau, requires_grad=True)
    loss = nt_xent(z, temperature=tensor_tau, **options)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert z.grad is not None and z.grad.dtype == z.dtype
    assert tensor_tau.grad is not None
    return Result(loss.detach(), z.grad, tensor_tau.grad)


def fresh(case: Case, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Return inputs that are new in every run of the tests, and the same all through it."""
    return case.make(dtype, device, int(os.environ["SSGEAR_TEST_SEED"]))


@cache
def expected(case: Case, dtype: torch.dtype) -> tuple[Result, Result]:
    """Return the truth, and for each of its parts the worst of the dense expression's.

    One rounding of that may be lucky; it is tried with the columns of z in several orders.
    """
    z, ids = fresh(case, dtype)
    truth = oracle(z, case.temperature, ids, case.normalize)
    peers = []
    for seed in range(ORDERS):
        order = torch.randperm(case.width, generator=torch.Generator().manual_seed(seed))
        peer = eager(z[:, order], case.temperature, ids, case.normalize)
        peers.append(Result(peer.loss, peer.grad_z[:, order.argsort()], peer.grad_tau))

    def worst(what: str) -> Tensor:
        right = getattr(truth, what)
        return max((getattr(peer, what) for peer in peers), key=lambda found: error(found, right))

    return truth, Result(*(worst(field.name) for field in fields(Result)))


def error(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def rounding(case: Case, z: Tensor) -> Result:
    """One float32 rounding of the largest numbers in loss and gradients, some of which cancel."""
    norms = z.double().norm(dim=1)
    largest_s = (1.0 if case.normalize else norms.max().item() ** 2) / case.temperature
    slope = 2 / (len(z) * case.temperature) * (1 if case.normalize else norms.max().item())
    slope_z = slope / (norms.min().item() if case.normalize else 1)
    parts = (max(largest_s, math.log(len(z))), slope_z, 2 * largest_s / case.temperature)
    return Result(*(EPS * torch.tensor(part) for part in parts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("impl", FORMS)
def test_value_and_gradients(case: Case, impl: Implementation, dtype: torch.dtype) -> None:
    z, ids = fresh(case, dtype)
    truth, peer = expected(case, dtype)
    result = ours(z, case.temperature, ids=ids, normalize=case.normalize, impl=impl)
    ulp = rounding(case, z)
    for what in ("loss", "grad_z", "grad_tau"):
        right = getattr(truth, what)
        mine, peers = (error(getattr(r, what), right) for r in (result, peer))
        allowed = 2 * peers + 4 * getattr(ulp, what).item()
        assert mine <= allowed, f"{what}: error {mine:.2e}, dense expression {peers:.2e}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("impl", FAST)
def test_a_number_and_a_tensor_as_temperature_agree(case: Case, impl: Implementation) -> None:
    z, ids = case.make(torch.float32)
    options: dict[str, Any] = {"ids": ids, "normalize": case.normalize, "impl": impl}
    tensor = nt_xent(z, temperature=torch.tensor(case.temperature), **options)
    torch.testing.assert_close(nt_xent(z, temperature=case.temperature, **options), tensor)


@pytest.mark.parametrize("impl", FORMS)
def test_float64_gradients_are_exact(impl: Implementation) -> None:
    for case in CASES[3:12]:
        z, ids = case.make(torch.float64)
        z.requires_grad_()
        tau = torch.tensor(case.temperature, dtype=torch.float64, requires_grad=True)
        nt_xent(z, temperature=tau, ids=ids, normalize=case.normalize, impl=impl).backward()
        truth = oracle(z, case.temperature, ids, case.normalize)
        torch.testing.assert_close(z.grad, truth.grad_z, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(tau.grad, truth.grad_tau, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tau", [0.02, 0.2])
@pytest.mark.parametrize("kind", ["pairs", "views", "raw"])
@pytest.mark.parametrize("impl", FORMS)
def test_gradients_are_the_slopes_of_the_value(impl: Implementation, kind: str, tau: float) -> None:
    z, _ = Case(rows=12, width=4).make(torch.float64)
    ids = torch.arange(12) % 4 if kind == "views" else None
    raw = kind == "raw"
    tensor_tau = torch.tensor(tau * 25 if raw else tau, dtype=torch.float64, requires_grad=True)

    def in_float64(z: Tensor, tau: Tensor) -> Tensor:  # the value returned in float32 has no digits
        with mock.patch.object(Tensor, "float", lambda loss: loss):
            return nt_xent(z, temperature=tau, ids=ids, normalize=not raw, impl=impl)

    torch.autograd.gradcheck(in_float64, (z.requires_grad_(), tensor_tau))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("tiles", ["torch", pytest.param("cpp", marks=BUILT)])
def test_operators_keep_their_contract(tiles: str, turned: bool) -> None:
    z, ids = Case(rows=12, width=5, ids="ragged").make(torch.float32)
    z = z.T.contiguous().T if turned else z
    z.requires_grad_()
    tau = torch.tensor(0.3, requires_grad=True)
    arguments = (z, tau, ids, True, False, "", 1, 0, tiles)
    torch.library.opcheck(nt_xent_forward, arguments)
    lse = nt_xent_forward(*arguments)[1].detach()
    grad = torch.ones(())
    torch.library.opcheck(
        nt_xent_backward, (grad, z.detach(), tau.detach(), ids, lse, None, True, False, 1, 0, tiles)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", FORMS)
def test_autocast_changes_nothing(impl: Implementation, dtype: torch.dtype) -> None:
    z, _ = SMALL.make(dtype)
    outside = ours(z, 0.05, impl=impl)
    leaf, tau = z.clone().requires_grad_(), torch.tensor(0.05, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(leaf, temperature=tau, impl=impl)
        if impl != "reference":  # autograd of the reference belongs outside, as PyTorch says
            loss.backward()
    if impl == "reference":
        loss.backward()
    assert torch.equal(loss, outside.loss)
    assert leaf.grad is not None and torch.equal(leaf.grad, outside.grad_z)
    assert tau.grad is not None and torch.equal(tau.grad, outside.grad_tau)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("impl", ["auto", *FAST])
def test_compiles_as_one_graph(impl: Implementation, backend: str) -> None:
    def function(z: Tensor, tau: Tensor, ids: Tensor) -> Tensor:
        pair = nt_xent(z[:18], z[18:36], temperature=0.1, impl=impl)
        with_ids = nt_xent(z, temperature=tau, ids=ids, impl=impl)
        return pair + with_ids + nt_xent(z, temperature=tau.exp(), impl=impl)

    z, _ = SMALL.make(torch.float32)
    ids = torch.arange(38) % 11
    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend=backend)):
        leaf, tau = z.clone().requires_grad_(), torch.tensor(0.2, requires_grad=True)
        loss = call(leaf, tau, ids)
        loss.backward()
        results.append((loss.detach(), leaf.grad, tau.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("impl", FORMS)
def test_permutation_of_rows_permutes_the_gradient(impl: Implementation) -> None:
    z, ids = Case(rows=69, width=13, ids="views").make(torch.float32)
    assert ids is not None
    order = torch.randperm(69, generator=torch.Generator().manual_seed(1))
    plain, permuted = (
        ours(rows, 0.1, ids=names, impl=impl) for rows, names in ((z, ids), (z[order], ids[order]))
    )
    torch.testing.assert_close(permuted.loss, plain.loss)
    assert_rows_close(permuted.grad_z, plain.grad_z[order], 8 * EPS / 0.1)


@pytest.mark.parametrize("impl", FORMS)
def test_ids_that_say_pairs_give_the_two_view_form(impl: Implementation) -> None:
    z, _ = SMALL.make(torch.float32)
    with_ids = ours(z, 0.1, ids=torch.arange(19).repeat(2), impl=impl)
    two_views = ours(z, 0.1, impl=impl)
    for what in ("loss", "grad_z", "grad_tau"):
        torch.testing.assert_close(getattr(with_ids, what), getattr(two_views, what))


@pytest.mark.parametrize("impl", FORMS)
def test_normalised_gradient_is_orthogonal_to_its_row(impl: Implementation) -> None:
    z, _ = SMALL.make(torch.float32)
    grad = ours(z, 0.1, impl=impl).grad_z
    cosine = torch.nn.functional.cosine_similarity(z, grad, dim=1)
    assert cosine.abs().max() < 1e-5


@pytest.mark.parametrize("tau", [0.01, 0.5])
@pytest.mark.parametrize("impl", FORMS)
def test_identical_rows(impl: Implementation, tau: float) -> None:
    z = torch.linspace(-1, 2, 7).expand(30, 7)
    result = ours(z, tau, impl=impl)
    assert result.loss.item() == pytest.approx(math.log(29), abs=8 * EPS / tau)
    assert result.grad_z.abs().max() < 8 * EPS / tau


@pytest.mark.parametrize("tau", [0.01, 0.3])
@pytest.mark.parametrize("impl", FORMS)
def test_one_image_has_nothing_to_learn(impl: Implementation, tau: float) -> None:
    for z in (torch.tensor([[1.0, 2], [2, -1]]), torch.tensor([[1.0, 2], [-1, -2]])):
        result = ours(z, tau, impl=impl)
        assert result.loss.abs() <= 4 * EPS / tau
        assert result.grad_z.abs().max() <= 8 * EPS / tau


@pytest.mark.parametrize("ids", [None, torch.arange(10) // 3])
@pytest.mark.parametrize("tau", [0.02, 0.2])
@pytest.mark.parametrize("impl", FORMS)
def test_zero_rows_stay_zero(impl: Implementation, tau: float, ids: Tensor | None) -> None:
    z, _ = Case(rows=10, width=6).make(torch.float32)
    zero = torch.tensor([False, True, True, *[False] * 6, True])
    z[zero] = 0
    result = ours(z, tau, impl=impl, ids=ids)
    z64 = z.double().requires_grad_()
    unit = torch.where(zero[:, None], 0, z64 / z64.norm(dim=1, keepdim=True).clamp_min(1e-300))
    unit.retain_grad()
    truth = oracle(unit, tau, ids, normalize=False)
    assert error(result.loss, truth.loss) < 4 * EPS / tau
    assert not result.grad_z[zero].any()
    (grad,) = torch.autograd.grad(unit, z64, truth.grad_z)
    torch.testing.assert_close(result.grad_z[~zero].double(), grad[~zero], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("impl", FORMS)
def test_extreme_rows_keep_their_direction(impl: Implementation, size: float) -> None:
    z, _ = SMALL.make(torch.float32)
    plain = ours(z, 0.1, impl=impl)
    factors = torch.where(torch.arange(38) % 3 == 0, size, 1.0)
    scaled = ours(z * factors[:, None], 0.1, impl=impl)
    if size == 1e-40:  # subnormal numbers hold three digits here
        assert scaled.loss.item() == pytest.approx(plain.loss.item(), rel=1e-2)
        return
    torch.testing.assert_close(scaled.loss, plain.loss)
    # a gradient below the smallest normal number keeps no digits
    there = torch.finfo(torch.float32).tiny
    truth = plain.grad_z.double() / factors[:, None]
    assert_rows_close(scaled.grad_z, truth, 2e-5, there)


@pytest.mark.parametrize("impl", FORMS)
def test_gradient_of_subnormal_rows(impl: Implementation) -> None:
    """1/||z|| is more than float32 holds; times a small slope it is not."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-7, 8, (14, 5), generator=generator).float()
    grads = []
    for size in (1.0, 2.0**-135):  # exact: the smallest number is 2^-149
        z = (whole * size).requires_grad_()
        (2.0**-40 * nt_xent(z, impl=impl)).backward()
        assert z.grad is not None
        grads.append(z.grad.double() * size)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("impl", FAST)
def test_equal_rows_of_large_similarity(impl: Implementation) -> None:
    """lse is 2^16 + log 13, of which float32 holds two decimals; the weights still sum to 1."""
    result = ours(torch.full((14, 1), 256.0), 1.0, normalize=False, impl=impl)
    assert result.grad_z.abs().max() < 1e-3
    assert result.grad_tau.abs() < 0.1


@pytest.mark.parametrize("impl", FORMS)
def test_positives_far_shorter_than_their_anchor(impl: Implementation) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=generator, dtype=torch.float64) * 1e-3
    z[0] *= 1e8
    z = z.float()
    ids = torch.tensor([0, 0, 0, 1, 1, 1])
    truth = oracle(z, 1e3, ids, normalize=False)
    result = ours(z, 1e3, ids=ids, normalize=False, impl=impl)
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=1e-4, atol=0)


@pytest.mark.parametrize("impl", FORMS)
def test_without_any_positive_the_loss_is_zero(impl: Implementation) -> None:
    z, _ = SMALL.make(torch.float32)
    for tau in (0.02, 0.2):
        result = ours(z, tau, ids=torch.arange(38), impl=impl)
        assert result.loss == 0 and not result.grad_z.any() and result.grad_tau == 0


@pytest.mark.parametrize("impl", FAST)
def test_float16_gradients_of_a_scaled_loss_do_not_underflow(impl: Implementation) -> None:
    z, _ = Case(rows=1026, width=128).make(torch.float16)
    z.requires_grad_()
    (2.0**14 * nt_xent(z, impl=impl)).backward()
    truth = oracle(z, 0.1).grad_z * 2**14
    assert z.grad is not None
    torch.testing.assert_close(z.grad.double(), truth, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("impl", FORMS)
def test_a_tensor_that_is_no_temperature_gives_nan(impl: Implementation, value: float) -> None:
    z, _ = SMALL.make(torch.float32)
    for ids in (None, torch.arange(38)):  # of pairs, and without any anchor
        result = ours(z, value, ids=ids, impl=impl)
        assert result.loss.isnan() and result.grad_z.isnan().any()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("impl", FORMS)
def test_what_is_not_finite_shows_in_the_loss(
    impl: Implementation, bad: float, normalize: bool
) -> None:
    for rows, tau in ((38, 0.1), (38, 0.01), (1030, 0.1), (1030, 0.01)):
        z, _ = Case(rows=rows, width=11).make(torch.float32)
        z[3, 2] = bad
        row = torch.arange(rows)
        for ids in (None, row, torch.where(row == 3, rows, row // 2)):  # row 3: an anchor, or none
            check_nan(z, tau, ids, normalize, impl)


@pytest.mark.parametrize("impl", FORMS)
def test_a_row_that_nothing_resembles_shows_too(impl: Implementation) -> None:
    """No anchor, and infinitely unlike all that are: a negative that weighs nothing."""
    z = torch.tensor([[math.inf], [-1], [-2], [-1.5], [-0.5]])
    check_nan(z, 0.1, torch.tensor([9, 0, 0, 1, 1]), False, impl)


def check_nan(
    z: Tensor, tau: float, ids: Tensor | None, normalize: bool, impl: Implementation
) -> None:
    result = ours(z, tau, ids=ids, normalize=normalize, impl=impl)
    assert result.loss.isnan() and result.grad_tau.isnan()
    assert result.grad_z.isnan().any()


@pytest.mark.parametrize("impl", FORMS)
def test_non_contiguous_and_detached_inputs(impl: Implementation) -> None:
    z, _ = SMALL.make(torch.float32)
    wide = torch.stack((z, z), 2)[..., 0]
    assert torch.equal(nt_xent(wide, impl=impl), nt_xent(z, impl=impl))
    tau = torch.tensor(0.2, requires_grad=True)
    nt_xent(z, temperature=tau, impl=impl).backward()
    torch.testing.assert_close(tau.grad, oracle(z, 0.2).grad_tau.float())


@pytest.mark.parametrize("impl", FORMS)
def test_any_sensible_temperature(impl: Implementation) -> None:
    """No overflow, and no gradient that is silently nothing: exp(s) goes up to e^200."""
    z, _ = Case(rows=262, width=16).make(torch.float32)
    for tau in (0.005, 0.01, 0.0249, 0.0251, 0.5, 7.0, 100.0):
        result, truth = ours(z, tau, impl=impl), oracle(z, tau)
        torch.testing.assert_close(result.loss.double(), truth.loss, rtol=1e-5, atol=1e-5)
        assert error(result.grad_z, truth.grad_z) < 1e-3 * truth.grad_z.abs().max().item()
        assert error(result.grad_tau, truth.grad_tau) < 1e-3 * truth.grad_tau.abs().item()


@pytest.mark.parametrize("tau", [0.02, 0.1])
@pytest.mark.parametrize("impl", FAST)
def test_repeated_calls_give_the_same_bits(impl: Implementation, tau: float) -> None:
    z, _ = Case(rows=1034, width=24).make(torch.float32)
    first, *others = (ours(z, tau, impl=impl) for _ in range(8))
    for other in others:
        assert torch.equal(other.loss, first.loss)
        assert torch.equal(other.grad_z, first.grad_z)
        assert torch.equal(other.grad_tau, first.grad_tau)


@pytest.mark.parametrize("impl", FAST)
def test_ids_may_be_a_column_of_a_table(impl: Implementation) -> None:
    z, _ = SMALL.make(torch.float32)
    table = torch.arange(76).view(38, 2) // 7
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = nt_xent(z, ids=table[:, 0], impl=impl)
    finally:
        torch.set_warn_always(before)
    assert torch.equal(loss, nt_xent(z, ids=table[:, 0].clone(), impl=impl))


@pytest.mark.parametrize("impl", FAST)
def test_a_second_derivative_is_refused_in_one_line(impl: Implementation) -> None:
    z = SMALL.make(torch.float32)[0].requires_grad_()
    (slope,) = torch.autograd.grad(nt_xent(z, impl=impl), z, create_graph=True)
    message = "nt_xent: the fused forms have no second derivative; use impl='reference'"
    with pytest.raises(ArgumentError, match=message):
        slope.square().sum().backward()


Z = torch.ones(6, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(6),), {}, "shape \\[6\\]; use \\[rows, width\\]"),
        ((torch.ones(6, 0),), {}, "shape \\[6, 0\\]"),
        ((torch.ones(7, 4),), {}, "7 rows.*pass ids for three or more views"),
        ((Z, Z, Z), {}, "3 views are not pairs; pass ids"),
        ((Z, torch.ones(5, 4)), {}, "view 2 has shape \\[5, 4\\] and view 1 \\[6, 4\\]"),
        ((Z.long(),), {}, "view 1 is torch.int64; use a floating-point tensor"),
        ((Z, "z"), {}, "view 2 is a str"),
        ((Z, Z.double()), {}, "view 2 is torch.float64 on cpu and view 1 torch.float32 on cpu"),
        ((Z, Z.to("meta")), {}, "view 2 is torch.float32 on meta and view 1 torch.float32 on cpu"),
        ((Z.to_sparse(),), {}, "view 1 is torch.float32 of layout torch.sparse_coo; use a float"),
        ((Z.to(torch.float8_e4m3fn),), {}, "view 1 is torch.float8_e4m3fn; .*16 bits or more"),
        ((Z,), {"ids": torch.arange(6, device="meta")}, "ids is on meta and z on cpu"),
        ((Z,), {"temperature": torch.ones((), device="meta")}, "temperature is on meta and z on"),
        (
            (Z,),
            {"temperature": torch.ones(()).to(torch.float8_e5m2)},
            "is torch.float8_e5m2",
        ),
        ((Z,), {"temperature": 1e39}, "temperature=1e\\+39; use a positive number that float32"),
        ((Z,), {"temperature": 10**400}, "temperature=10*\\.\\.\\.; use a positive number"),
        ((Z,), {"temperature": 10**5000}, "temperature=a huge number"),
        ((Z,), {"temperature": 1e-50}, "temperature=1e-50"),
        ((Z,), {"normalize": "no"}, "normalize='no'; use True or False"),
        ((Z,), {"group": "world"}, "group is a str; use a torch.distributed.ProcessGroup"),
        ((torch.ones(0, 4),), {}, "0 rows; the loss needs at least 2"),
        ((torch.ones(1, 4),), {"ids": torch.zeros(1).long()}, "1 rows; the loss needs at least 2"),
        ((Z,), {"ids": torch.arange(5)}, "ids is torch.int64 \\[5\\]; use torch.int64 \\[6\\]"),
        ((Z,), {"ids": torch.arange(6).int()}, "ids is torch.int32 \\[6\\]"),
        ((Z,), {"ids": [0, 1, 2, 0, 1, 2]}, "ids is list"),
        ((Z,), {"temperature": 0}, "temperature=0; use a positive number"),
        ((Z,), {"temperature": -0.1}, "temperature=-0.1"),
        ((Z,), {"temperature": math.nan}, "temperature=nan"),
        ((Z,), {"temperature": math.inf}, "temperature=inf"),
        ((Z,), {"temperature": "hot"}, "temperature='hot'"),
        ((Z,), {"temperature": torch.ones(1)}, "temperature is torch.float32 \\[1\\]"),
        ((Z,), {"temperature": torch.tensor(1)}, "temperature is torch.int64 \\[\\]"),
        ((Z,), {"impl": "streming"}, "impl='streming' \\(did you mean streaming\\?\\)"),
        (
            (Z,),
            {"impl": "triton"},
            "impl='triton' is not possible here.*use auto or .*streaming",
        ),
    ],
)
def test_bad_arguments_are_named_in_one_line(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as raised:
        nt_xent(*arguments, **options)
    assert "\n" not in str(raised.value)
