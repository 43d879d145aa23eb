"""InfoNCE against dense float64 formulas: values, every gradient, ranks, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.nt_xent.info_nce import InfoNCEImplementation, info_nce
from tests.ranks import Ranks

BUILT = pytest.mark.skipif(not native.available(), reason=native.reason())
FAST = ["streaming", pytest.param("cpp", marks=BUILT)]
EVERY = pytest.mark.parametrize("impl", ["reference", *FAST])
KINDS = pytest.mark.parametrize("kind", ["queue", "batch"])


def rows(kind: str, n: int = 13, length: int = 37, width: int = 6) -> list[Tensor | None]:
    """Return q, k and a queue or None in float64; positives lie near their anchors."""
    generator = torch.Generator().manual_seed(n + length)
    q = torch.randn(n, width, generator=generator, dtype=torch.float64)
    k = q + 0.7 * torch.randn(n, width, generator=generator, dtype=torch.float64)
    queue = torch.randn(length, width, generator=generator, dtype=torch.float64)
    return [q, k, queue if kind == "queue" else None]


def truth(q: Tensor, k: Tensor, queue: Tensor | None, tau: Tensor, normalize: bool) -> Tensor:
    """Return the loss as cross-entropy over dense logits."""
    if normalize:
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        queue = None if queue is None else F.normalize(queue, dim=1)
    if queue is None:
        return F.cross_entropy(q @ k.T / tau, torch.arange(len(q)))
    logits = torch.cat(((q * k).sum(1, keepdim=True), q @ queue.T), dim=1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


def leaves(q: Tensor, k: Tensor, tau: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    wide = dtype if dtype == torch.float64 else torch.float32
    tensors = q.to(dtype), k.to(dtype), torch.tensor(tau, dtype=wide)
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)  # type: ignore[return-value]


@EVERY
@KINDS
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("tau", [0.2, 0.015])
def test_float64_is_exact(
    impl: InfoNCEImplementation, kind: str, normalize: bool, tau: float
) -> None:
    q, k, queue = rows(kind)
    mine, right = leaves(q, k, tau, torch.float64), leaves(q, k, tau, torch.float64)
    value = info_nce(*mine[:2], queue, temperature=mine[2], normalize=normalize, impl=impl)
    expected = truth(*right[:2], queue, right[2], normalize)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32 and value.shape == ()
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    for own, other in zip(mine, right, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("impl", FAST)
@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_tiles_in_low_precision(
    impl: InfoNCEImplementation, kind: str, dtype: torch.dtype
) -> None:
    q, k, queue = rows(kind, n=601 if kind == "batch" else 33, length=1100, width=21)
    mine, eager = leaves(q, k, 0.1, dtype), leaves(q, k, 0.1, dtype)
    right = leaves(mine[0].double(), mine[1].double(), 0.1, torch.float64)
    queue = None if queue is None else queue.to(dtype)
    wide = None if queue is None else queue.double()
    found = info_nce(*mine[:2], queue, temperature=mine[2], impl=impl)
    peer = truth(*(each.float() for each in eager[:2]), None if queue is None else queue.float(),
                 eager[2], True)  # fmt: skip
    expected = truth(*right[:2], wide, right[2], True)
    for loss in (found, peer, expected):
        loss.backward()
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)
    for own, other, exact in zip(mine, eager, right, strict=True):
        error, peers = ((g.grad.double() - exact.grad).abs().max() for g in (own, other))
        largest = exact.grad.abs().max() * torch.finfo(torch.float32).eps
        assert error <= 2 * peers + 4 * largest, (error, peers)


@pytest.mark.parametrize("impl", FAST)
@KINDS
def test_only_what_asks_gets_a_gradient(impl: InfoNCEImplementation, kind: str) -> None:
    q, k, queue = rows(kind)
    expected = leaves(q, k, 0.2, torch.float64)
    truth(*expected[:2], queue, expected[2], True).backward()
    for which in (0, 1):
        pair = [q.clone(), k.clone()]
        pair[which].requires_grad_()
        queued = None if queue is None else queue.clone().requires_grad_()
        info_nce(*pair, queued, temperature=0.2, impl=impl).backward()
        torch.testing.assert_close(pair[which].grad, expected[which].grad)
        assert pair[1 - which].grad is None and (queued is None or queued.grad is None)


@EVERY
@KINDS
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_in_nan_out(impl: InfoNCEImplementation, kind: str, which: int, bad: float) -> None:
    tensors = rows(kind)
    if tensors[which] is None:
        return
    tensors[which][4, 1] = bad
    q = tensors[0].requires_grad_()
    loss = info_nce(*tensors, temperature=0.2, impl=impl)
    loss.backward()
    assert loss.isnan() and q.grad.isnan().all()


@EVERY
@KINDS
def test_types_may_differ(impl: InfoNCEImplementation, kind: str) -> None:
    q, k, queue = (None if each is None else each.bfloat16() for each in rows(kind))
    mixed = q.float().requires_grad_(), k.clone().requires_grad_()
    wide = q.float().requires_grad_(), k.float().requires_grad_()
    for pair in (mixed, wide):
        info_nce(*pair, queue, temperature=0.2, impl=impl).backward()
    assert [each.grad.dtype for each in mixed] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(mixed[0].grad, wide[0].grad)
    torch.testing.assert_close(mixed[1].grad.float(), wide[1].grad, rtol=1e-2, atol=1e-4)


@EVERY
def test_edges(impl: InfoNCEImplementation) -> None:
    one = torch.ones(1, 3, requires_grad=True)
    loss = info_nce(one, one.detach(), impl=impl)  # no negatives
    loss.backward()
    assert loss.abs() < 1e-6 and (one.grad.abs() < 1e-6).all()
    q, k, queue = rows("queue")
    q[2] = 0
    info_nce(q.requires_grad_(), k, queue, temperature=0.2, impl=impl).backward()
    assert q.grad.isfinite().all() and (q.grad[2] == 0).all()
    assert info_nce(q, k, queue, temperature=torch.tensor(-1.0), impl=impl).isnan()


@pytest.mark.parametrize("impl", FAST)
@KINDS
def test_compiles_whole_and_ignores_autocast(impl: InfoNCEImplementation, kind: str) -> None:
    q, k, queue = (None if each is None else each.float() for each in rows(kind))
    compiled = torch.compile(info_nce, fullgraph=True, backend="aot_eager")
    found, expected = q.clone().requires_grad_(), q.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = compiled(found, k, queue, temperature=0.3, impl=impl)
    value.backward()
    plain = info_nce(expected, k, queue, temperature=0.3, impl=impl)
    plain.backward()
    assert torch.equal(value, plain) and torch.equal(found.grad, expected.grad)


def on_rank(impl: InfoNCEImplementation, kind: str) -> Any:
    q, k, queue = rows(kind, n=14)
    own = slice(7 * dist.get_rank(), 7 * dist.get_rank() + 7)
    mine = leaves(q[own], k[own], 0.2, torch.float64)
    loss = info_nce(*mine[:2], queue, temperature=mine[2], group=dist.group.WORLD, impl=impl)
    loss.backward()
    return loss.item(), *(each.grad.numpy() for each in mine)


@EVERY
@KINDS
def test_two_ranks_equal_one_process(impl: InfoNCEImplementation, kind: str, pair: Ranks) -> None:
    q, k, queue = rows(kind, n=14)
    right = leaves(q, k, 0.2, torch.float64)
    expected = truth(*right[:2], queue, right[2], True)
    expected.backward()
    found = pair.run(on_rank, impl, kind)
    assert sum(each[0] for each in found) / 2 == pytest.approx(expected.item(), rel=1e-6)
    for place, other in enumerate(right[:2], 1):
        grads = torch.cat([torch.from_numpy(each[place]) for each in found])
        # what wraps the model takes the mean over ranks
        torch.testing.assert_close(grads / 2, other.grad, rtol=1e-8, atol=1e-11)
    tau = sum(float(each[3]) for each in found) / 2
    assert tau == pytest.approx(right[2].grad.item(), rel=1e-8)


def unequal(kind: str) -> str:
    q, k, _ = rows("batch", n=14)
    count = 7 + dist.get_rank() * (kind == "rows")
    tau = -1.0 if kind == "tau" and dist.get_rank() else 0.2
    try:
        info_nce(q[:count], k[:count], temperature=tau, group=dist.group.WORLD)
    except ArgumentError as error:
        return str(error)
    return "no error"


def test_ranks_that_differ_are_told_so(pair: Ranks) -> None:
    for said in pair.run(unequal, "rows"):
        assert said.startswith("info_nce: all ranks of a group must bring the same shape; rank 0")
    for said in pair.run(unequal, "tau"):
        assert said.startswith("info_nce: temperature=-1.0; use a positive number")


@pytest.mark.parametrize("queue", [None, torch.ones(4, 2)])
def test_a_second_derivative_of_a_fused_form_is_refused_in_one_line(queue: Tensor | None) -> None:
    q = torch.randn(3, 2, requires_grad=True)
    loss = info_nce(q, torch.ones(3, 2), queue, impl="streaming")
    (slope,) = torch.autograd.grad(loss, q, create_graph=True)
    message = "info_nce: the fused forms have no second derivative; use impl='reference'"
    with pytest.raises(ArgumentError, match=message):
        slope.square().sum().backward()


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((ONES, torch.ones(2, 2)), {}, "k torch.float32 [2, 2]; row i of k must be the positive"),
        ((ONES, ONES.double()), {}, "both float64 or neither"),
        ((ONES, ONES, torch.ones(4, 3)), {}, "queue has shape [4, 3]; use [rows, 2], as wide as q"),
        ((ONES, ONES, torch.ones(0, 2)), {}, "queue has shape [0, 2]; use [rows, width]"),
        ((ONES.long(), ONES), {}, "q is torch.int64; use a floating-point tensor"),
        ((ONES, None), {}, "k is a NoneType; use a floating-point tensor"),
        ((ONES, ONES, ONES.to("meta")), {}, "queue is on meta and q on cpu; bring them to one"),
        ((ONES, ONES), {"temperature": 0}, "temperature=0; use a positive number"),
        ((ONES, ONES), {"temperature": torch.ones(2)}, "use a number or a 0-d"),
        ((ONES, ONES), {"normalize": 1}, "normalize=1; use True or False"),
        ((ONES, ONES), {"impl": "streming"}, "unknown impl='streming' (did you mean streaming?)"),
        ((ONES, ONES), {"impl": "triton"}, "unknown impl='triton'; use one of auto, reference"),
        ((ONES, ONES), {"group": 3}, "group is a int; use a torch.distributed.ProcessGroup"),
    ],
)
def test_refusals(arguments: tuple[Any, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        info_nce(*arguments, **options)
    assert str(caught.value).startswith("info_nce: ") and said in str(caught.value)
