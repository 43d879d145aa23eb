"""Triton NT-Xent in the interpreter, on gloo ranks, against float64.

Errors are held to those of the dense float32 expression, as in test_loss.py, for bfloat16 and
float16 too; but their gradient of z to those of a dense expression whose product is of that type.
The interpreter runs one program after the other: it proves the arithmetic, not the absence of
races. Functions that run on ranks come first.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.forms import choose
from ssgear.kernels.nt_xent.loss import CASES, FORMS, Case, nt_xent
from tests.kernels.nt_xent import test_loss as common
from tests.kernels.nt_xent import test_ranks as common_ranks
from tests.kernels.nt_xent.oracle import Result, assert_rows_close
from tests.ranks import Ranks

EPS = torch.finfo(torch.float32).eps
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDE = (
    Case(rows=38, width=300, temperature=0.2),
    Case(rows=21, width=530, temperature=0.1, ids="views"),
    Case(rows=22, width=300, temperature=0.02),
)
SMALL_CASES = tuple(case for case in CASES if case.rows <= 256) + WIDE


def result_of(z: Tensor, tau: float | Tensor, **options: Any) -> Result:
    return common.ours(z, float(tau), impl="triton", **options)


def case_on_rank(case: Case, dtype: torch.dtype) -> Result:
    z, ids = common.fresh(case, dtype)
    return result_of(z, case.temperature, ids=ids, normalize=case.normalize)


def rows_on_rank(z: Tensor, tau: float, options: dict[str, Any]) -> Result:
    return result_of(z, tau, **options)


def number_on_rank(z: Tensor, tau: float) -> Tensor:
    return nt_xent(z, temperature=tau, impl="triton")


def scaled_on_rank(z: Tensor, factor: float) -> Tensor:
    z.requires_grad_()
    (factor * nt_xent(z, impl="triton")).backward()
    assert z.grad is not None
    return z.grad


def operators_on_rank() -> None:
    from ssgear.kernels.nt_xent.triton.operator import (
        nt_xent_triton_backward,
        nt_xent_triton_forward,
    )

    z, ids = Case(rows=12, width=5, ids="ragged").make(torch.float32)
    z.requires_grad_()
    tau = torch.tensor(0.3, requires_grad=True)
    arguments = (z, tau, ids, True, False, "", 1, 0)
    torch.library.opcheck(nt_xent_triton_forward, arguments)
    _, *kept, _ = (output.detach() for output in nt_xent_triton_forward(*arguments))
    inputs = (torch.ones(()), z.detach(), tau.detach(), *kept, None, True, False, 1, 0)
    torch.library.opcheck(nt_xent_triton_backward, inputs)


def compiled_on_rank() -> list[tuple[Tensor, ...]]:
    def function(z: Tensor, tau: Tensor, ids: Tensor) -> Tensor:
        pair = nt_xent(z[:18], z[18:36], temperature=0.1, impl="triton")
        return pair + nt_xent(z, temperature=tau.exp(), ids=ids, impl="triton")

    z, _ = common.SMALL.make(torch.float32)
    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        leaf, tau = z.clone().requires_grad_(), torch.tensor(-1.5, requires_grad=True)
        loss = call(leaf, tau, torch.arange(38) % 11)
        loss.backward()
        results.append((loss.detach(), leaf.grad, tau.grad))
    return results


def autocast_on_rank() -> list[Tensor]:
    z, _ = common.SMALL.make(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = result_of(z, 0.05)
    outside = result_of(z, 0.05)
    return [inside.loss, outside.loss, inside.grad_z, outside.grad_z]


def strips_on_rank(dtype: torch.dtype) -> list[Result]:
    """Return the result with all tiles at once, and with strips and chunks of few."""
    from ssgear.kernels.nt_xent.triton import launch
    from ssgear.kernels.nt_xent.triton import launch_backward as backward

    z, ids = Case(rows=250, width=9, ids="ragged").make(dtype)
    wide, _ = Case(rows=250, width=257).make(dtype)
    usual = (launch.PARTIAL_FLOATS, launch.PROGRAMS, backward.PANEL)
    results = []
    for cut in (usual, (256, 2, (128, 128)), usual):
        launch.PARTIAL_FLOATS, launch.PROGRAMS, backward.PANEL = cut
        results += [result_of(z, tau, ids=ids) for tau in (0.1, 0.02)]
        results.append(result_of(wide, 0.1))
    return results


def triangle_on_rank(num_tiles: int, chunk: int, strip: int) -> list[tuple[int, int]]:
    """Return row tile and chunk of all programs of a triangle that is walked in strips."""
    from ssgear.kernels.nt_xent.triton.launch import programs_below
    from tests.kernels.nt_xent.triangle import places

    found = []
    for start in range(0, num_tiles, strip):
        first = programs_below(num_tiles - min(start + strip, num_tiles), chunk)
        count = programs_below(num_tiles - start, chunk) - first
        rows, parts = places(num_tiles, chunk, first, count)
        assert start <= rows.min() and rows.max() < start + strip
        found += list(zip(rows.tolist(), parts.tolist(), strict=True))
    return found


def every_plan_on_rank() -> list[str]:
    """Return what the self-test says about all plans of some kinds of input."""
    from ssgear.kernels.nt_xent.triton.check import Kind, fault

    found = []
    for kind in (
        Kind(torch.bfloat16, 128, 16384, True, True, False, False),
        Kind(torch.bfloat16, 128, 16384, True, False, False, False),
        Kind(torch.float32, 1, 2048, True, True, False, False),
        Kind(torch.bfloat16, 20, 16384, True, True, True, True),
        Kind(torch.float16, 33, 2048, False, False, False, True),
        Kind(torch.bfloat16, 260, 2048, True, False, True, False),
    ):
        plans = kind.plans(torch.device("cpu"))
        found += [fault(plan, kind, torch.device("cpu")) for plan in plans]
    return found


def other_chips_on_rank() -> list[str]:
    """Return what the self-test says about tiles that only other chips than Hopper have."""
    from ssgear.kernels.nt_xent.triton.check import Kind, fault
    from ssgear.kernels.nt_xent.triton.tiles import ROW_BUCKETS, candidates

    few, many = ROW_BUCKETS[0], ROW_BUCKETS[-1] + 1
    found = []
    for chip, kind in (
        ("small", Kind(torch.float32, 130, many, True, True, False, False)),
        ("small", Kind(torch.bfloat16, 200, few, True, False, True, True)),
        ("blackwell", Kind(torch.float32, 33, few, True, True, True, False)),
        ("blackwell", Kind(torch.float16, 128, many, True, False, True, False)),
        ("blackwell", Kind(torch.bfloat16, 200, many, True, True, True, False)),
        ("blackwell", Kind(torch.bfloat16, 260, many, False, False, True, False)),
    ):
        flags = {"bounded": kind.bounded, "has_ids": kind.has_ids}
        plan = next(candidates(kind.dtype, kind.width, kind.rows, **flags, chip=chip))
        found.append(fault(plan, kind, torch.device("cpu")))
    return found


def broken_on_rank() -> tuple[list[str], list[Result]]:
    """Return what is said, and both results, where no plan is right."""
    import warnings

    from ssgear.kernels.nt_xent.triton import check

    z, ids = Case(rows=69, width=13, ids="ragged").make(torch.float32)
    before, right = check.plan_for, result_of(z, 0.1, ids=ids)
    original = check.fault
    kind = check.Kind(torch.float32, 13, 2048, True, True, True, False)
    try:
        check.fault = lambda *_: "sums are off"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert check.first_right_plan(kind, torch.device("cpu")) is None
        check.plan_for = lambda *_: None
        slow = result_of(z, 0.1, ids=ids)
    finally:
        check.plan_for, check.fault = before, original
    return [str(warning.message) for warning in caught], [right, slow]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    triton, numpy = (version(name).split(".")[:2] for name in ("triton", "numpy"))
    if (int(triton[0]), int(triton[1])) < (3, 7) and (int(numpy[0]), int(numpy[1])) >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 needs NumPy before 2.4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        pool = Ranks(3)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def alone(ranks: Ranks) -> Callable[..., Any]:
    """Call a function in the interpreter's process of rank 0."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        ((worked, answer),) = ranks.answers([0], function, *arguments)
        assert worked, answer
        return answer

    return call


def dense_half(z: Tensor, tau: float, ids: Tensor | None, normalize: bool) -> Result:
    """Return what the dense expression gives where its matrix product is of z's type."""
    z = z.detach().requires_grad_()
    tau32 = torch.tensor(tau, requires_grad=True)
    rows = torch.nn.functional.normalize(z.float(), dim=1).to(z.dtype) if normalize else z
    itself = torch.eye(len(z), dtype=torch.bool)
    s = (rows @ rows.T).float() / tau32
    log_p = s.masked_fill(itself, -torch.inf).log_softmax(1)
    ids = torch.arange(len(z)) % (len(z) // 2) if ids is None else ids
    positives = (ids[:, None] == ids) & ~itself
    count = positives.sum(1)
    terms = -log_p.masked_fill(~positives, 0).sum(1)[count > 0] / count[count > 0]
    terms.mean().backward()
    assert z.grad is not None and tau32.grad is not None
    return Result(terms.mean().detach(), z.grad, tau32.grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_value_and_gradients(case: Case, dtype: torch.dtype, alone: Callable[..., Any]) -> None:
    z, ids = common.fresh(case, dtype)
    truth, peer = common.expected(case, dtype)
    result = alone(case_on_rank, case, dtype)
    ulp = common.rounding(case, z)
    half = dense_half(z, case.temperature, ids, case.normalize)
    for what in ("loss", "grad_z", "grad_tau"):
        like = half if dtype != torch.float32 and what == "grad_z" else peer
        right = getattr(truth, what)
        mine, peers = (common.error(getattr(r, what), right) for r in (result, like))
        allowed = 2 * peers + 4 * getattr(ulp, what).item()
        if like is half:  # one rounding of the largest weights, which may all be equal
            allowed += torch.finfo(dtype).eps / EPS / 2 * ulp.grad_z.item()
        elif what == "grad_z":  # one rounding more of the exponent, which weights of 1 feel too
            largest_t = ulp.loss.item() / EPS / math.log(2)
            allowed += largest_t / 2 * ulp.grad_z.item()
        assert mine <= allowed, f"{what}: error {mine:.2e}, dense expression {peers:.2e}"


@pytest.mark.parametrize("tau", [0.005, 0.026, 0.1, 100.0])
def test_a_number_as_temperature(tau: float, alone: Callable[..., Any]) -> None:
    z, _ = common.SMALL.make(torch.float32)
    right = common.oracle(z, tau).loss.item()
    assert alone(number_on_rank, z, tau).item() == pytest.approx(right, rel=1e-6, abs=4 * EPS / tau)


@pytest.mark.parametrize("tau", [0.02, 0.2])
def test_permutation_of_rows_permutes_the_gradient(tau: float, alone: Callable[..., Any]) -> None:
    z, ids = Case(rows=69, width=13, ids="views").make(torch.float32)
    assert ids is not None
    order = torch.randperm(69, generator=torch.Generator().manual_seed(1))
    plain = alone(rows_on_rank, z, tau, {"ids": ids})
    permuted = alone(rows_on_rank, z[order], tau, {"ids": ids[order]})
    torch.testing.assert_close(permuted.loss, plain.loss)
    assert_rows_close(permuted.grad_z, plain.grad_z[order], 8 * EPS / tau)


def test_normalised_gradient_is_orthogonal_to_its_row(alone: Callable[..., Any]) -> None:
    z, _ = common.SMALL.make(torch.float32)
    grad = alone(rows_on_rank, z, 0.1, {}).grad_z
    assert torch.nn.functional.cosine_similarity(z, grad, dim=1).abs().max() < 1e-5


@pytest.mark.parametrize("tau", [0.01, 0.3])
def test_one_image_has_nothing_to_learn(tau: float, alone: Callable[..., Any]) -> None:
    for z in (torch.tensor([[1.0, 2], [2, -1]]), torch.tensor([[1.0, 2], [-1, -2]])):
        result = alone(rows_on_rank, z, tau, {})
        assert result.loss.abs() <= 4 * EPS / tau
        assert result.grad_z.abs().max() <= 8 * EPS / tau


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opposite_rows_just_above_the_constant_maximum(
    dtype: torch.dtype, alone: Callable[..., Any]
) -> None:
    """Weights of 2^115, which float16's factor must not lift out of float32."""
    result = alone(rows_on_rank, torch.tensor([[1.5], [-1.25]], dtype=dtype), 0.0251, {})
    assert result.loss.abs() <= 1e-4
    assert result.grad_z.abs().max() <= 1e-3 and result.grad_tau.abs() <= 1e-2


@pytest.mark.parametrize("ids", [None, torch.arange(10) // 3])
@pytest.mark.parametrize("tau", [0.02, 0.2])
def test_zero_rows_stay_zero(tau: float, ids: Tensor | None, alone: Callable[..., Any]) -> None:
    z, _ = Case(rows=10, width=6).make(torch.float32)
    zero = torch.tensor([False, True, True, *[False] * 6, True])
    z[zero] = 0
    result = alone(rows_on_rank, z, tau, {"ids": ids})
    right = common.ours(z, tau, ids=ids, impl="streaming")
    torch.testing.assert_close(result.loss, right.loss)
    assert not result.grad_z[zero].any()
    torch.testing.assert_close(result.grad_z, right.grad_z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.grad_tau, right.grad_tau, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e30, 1e38])
def test_extreme_rows_keep_their_direction(size: float, alone: Callable[..., Any]) -> None:
    z, _ = common.SMALL.make(torch.float32)
    plain = alone(rows_on_rank, z, 0.1, {})
    factors = torch.where(torch.arange(38) % 3 == 0, size, 1.0)
    scaled = alone(rows_on_rank, z * factors[:, None], 0.1, {})
    if size == 1e-40:  # subnormal numbers hold three digits here
        assert scaled.loss.item() == pytest.approx(plain.loss.item(), rel=1e-2)
        return
    torch.testing.assert_close(scaled.loss, plain.loss)
    there = torch.finfo(torch.float32).tiny
    truth = plain.grad_z.double() / factors[:, None]
    torch.testing.assert_close(scaled.grad_z.double(), truth, rtol=1e-4, atol=there)


def test_without_any_positive_the_loss_is_zero(alone: Callable[..., Any]) -> None:
    z, _ = common.SMALL.make(torch.float32)
    for tau in (0.02, 0.2):
        result = alone(rows_on_rank, z, tau, {"ids": torch.arange(38)})
        assert result.loss == 0 and not result.grad_z.any() and result.grad_tau == 0


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_what_is_no_temperature_gives_nan(value: float, alone: Callable[..., Any]) -> None:
    z, _ = common.SMALL.make(torch.float32)
    for ids in (None, torch.arange(38)):  # of pairs, and without any anchor
        result = alone(rows_on_rank, z, value, {"ids": ids})
        assert result.loss.isnan() and result.grad_z.isnan().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tau", [0.01, 0.2])
def test_what_is_not_finite_shows_in_the_loss(
    tau: float, normalize: bool, bad: float, alone: Callable[..., Any]
) -> None:
    z, _ = common.SMALL.make(torch.float32)
    z[3, 2] = bad
    row = torch.arange(len(z))
    for ids in (None, row, row // 2):
        result = alone(rows_on_rank, z, tau, {"normalize": normalize, "ids": ids})
        assert result.loss.isnan() and result.grad_z.isnan().any()


def test_float16_gradients_of_a_scaled_loss_do_not_underflow(alone: Callable[..., Any]) -> None:
    z, _ = Case(rows=130, width=20).make(torch.float16)
    grad = alone(scaled_on_rank, z, 2.0**14)
    truth = common.oracle(z, 0.1).grad_z * 2**14
    assert common.error(grad, truth) < 1e-3 * truth.abs().max()


def test_operators_keep_their_contract(alone: Callable[..., Any]) -> None:
    alone(operators_on_rank)


def test_compiles_as_one_graph(alone: Callable[..., Any]) -> None:
    eager, compiled = alone(compiled_on_rank)
    torch.testing.assert_close(compiled, eager)


def test_autocast_changes_nothing(alone: Callable[..., Any]) -> None:
    loss, right_loss, grad, right_grad = alone(autocast_on_rank)
    assert torch.equal(loss, right_loss) and torch.equal(grad, right_grad)


def test_strips_chunks_and_panels_change_the_rounding_only(alone: Callable[..., Any]) -> None:
    results = alone(strips_on_rank, torch.float32)
    for whole, cut, again in zip(results[:3], results[3:6], results[6:], strict=True):
        assert torch.equal(again.grad_z, whole.grad_z)
        torch.testing.assert_close(cut.loss, whole.loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(cut.grad_z, whole.grad_z, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(cut.grad_tau, whole.grad_tau, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("num_tiles", "chunk", "strip"),
    [(1, 1, 1), (7, 1, 7), (33, 4, 5), (100, 100, 30), (2000, 3, 900), (8192, 40, 1000)],
)
def test_programs_cover_the_triangle_once(
    num_tiles: int, chunk: int, strip: int, alone: Callable[..., Any]
) -> None:
    wanted = [
        (row, part) for row in range(num_tiles) for part in range(-(-(num_tiles - row) // chunk))
    ]
    assert sorted(alone(triangle_on_rank, num_tiles, chunk, strip)) == wanted


def test_the_self_test_passes_for_every_plan(alone: Callable[..., Any]) -> None:
    found = alone(every_plan_on_rank)
    assert len(found) == 17 and set(found) == {""}


def test_tiles_of_other_chips_are_right(alone: Callable[..., Any]) -> None:
    assert alone(other_chips_on_rank) == [""] * 6


def test_where_no_plan_is_right_streaming_is_taken_loudly(alone: Callable[..., Any]) -> None:
    said, (right, slow) = alone(broken_on_rank)
    assert "NO TRITON KERNEL IS RIGHT on cpu: sums are off; the streaming form is taken" in said[-1]
    for what in ("loss", "grad_z", "grad_tau"):
        torch.testing.assert_close(getattr(slow, what), getattr(right, what), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["pairs", "ids", "ids-raw"])
@pytest.mark.parametrize(("size", "tau"), [(2, 0.02), (3, 0.2)])
def test_ranks_equal_one_process(size: int, tau: float, kind: str, ranks: Ranks) -> None:
    common_ranks.test_ranks_equal_one_process(size, tau, kind, "triton", ranks)


def test_compiled_on_ranks(ranks: Ranks) -> None:
    common_ranks.test_ranks_equal_one_process(2, 0.2, "ids-compiled", "triton", ranks)


@pytest.mark.parametrize("what", ["rows", "ids"])
def test_unequal_ranks_are_named(what: str, ranks: Ranks) -> None:
    common_ranks.test_unequal_ranks_are_named(what, "triton", ranks)


def test_without_the_interpreter_a_cpu_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"TRITON_INTERPRET=1.*use auto or .*streaming"):
        nt_xent(torch.ones(4, 3), impl="triton")
    with pytest.raises(ArgumentError, match=r"takes bfloat16, float16 and float32.*float64"):
        nt_xent(torch.ones(4, 3).double(), impl="triton")


def test_the_losses_do_not_import_triton() -> None:
    program = "import sys, ssgear.losses; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*CASES, *WIDE], ids=str)
def test_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    z, ids = common.fresh(case, dtype, "cuda")
    result = result_of(z, case.temperature, ids=ids, normalize=case.normalize)
    truth, peer = common.expected(case, dtype)
    ulp = common.rounding(case, z)
    allowed = 2 * common.error(peer.loss, truth.loss) + 16 * ulp.loss.item()
    assert common.error(result.loss.cpu(), truth.loss) <= allowed
    scale = truth.grad_z.abs().max().item()
    allowed = (8 * torch.finfo(dtype).eps + 1e-5) * scale + 64 * ulp.grad_z.item()
    assert common.error(result.grad_z.cpu(), truth.grad_z) <= allowed


@pytest.mark.gpu
def test_on_a_gpu_the_fastest_plans_are_right_and_taken() -> None:
    from ssgear.kernels.nt_xent.triton.check import Kind, fault

    device = torch.device("cuda")
    for dtype in DTYPES:
        for bounded in (True, False):
            kind = Kind(dtype, 128, 16384, True, bounded, False, False)
            assert fault(kind.plans(device)[0], kind, device) == ""
        rows = torch.ones(2, 2, dtype=dtype, device=device)
        assert choose("nt_xent", "auto", FORMS, rows, (rows,)).name == "triton"


@pytest.mark.gpu
def test_a_cuda_graph_repeats_the_loss_and_its_gradient() -> None:
    z = Case(rows=514, width=128).make(torch.bfloat16, "cuda")[0].requires_grad_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        (right,) = torch.autograd.grad(nt_xent(z, impl="triton"), z)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        (grad,) = torch.autograd.grad(nt_xent(z, impl="triton"), z)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(grad, right)
