"""NT-Xent over gloo ranks equals one process with the whole batch; and the memory of one process.

Functions that run on ranks come first; each makes its own inputs from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.nt_xent import rows as room
from ssgear.kernels.nt_xent.loss import Implementation, nt_xent
from tests.kernels.nt_xent.oracle import Result, oracle
from tests.ranks import Ranks

BUILT = pytest.mark.skipif(not native.available(), reason=native.reason())
CPP = pytest.param("cpp", marks=BUILT)


@cache
def group_of(size: int) -> Any:
    """Group of the first ranks; every rank must ask."""
    return dist.new_group(list(range(size)))


def whole_batch(rows: int, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return 3 * torch.randn(rows, width, generator=generator)


def uneven_ids(rows: int) -> Tensor:
    """Positives within and across ranks; the last ranks have more rows that are alone."""
    row = torch.arange(rows)
    return torch.where(row < rows * 2 // 3, row % 5, 100 + row)


def own_rows(whole: Tensor, size: int) -> Tensor:
    """Rows of this rank when every rank takes its share of both views."""
    pairs = whole.view(2, size, -1, *whole.shape[1:])
    return pairs[:, dist.get_rank()].flatten(0, 1)


def on_rank(size: int, rows: int, tau: float, kind: str, impl: Implementation) -> Any:
    """Return value and gradients of this rank's rows, or None on a rank that is not asked."""
    group = group_of(size)
    if dist.get_rank() >= size:
        return None
    z = own_rows(whole_batch(rows), size).clone().requires_grad_()
    ids = own_rows(uneven_ids(rows), size) if "ids" in kind else None
    tensor_tau = torch.tensor(tau, requires_grad=True)
    options: dict[str, Any] = {"ids": ids, "group": group, "impl": impl}
    options["normalize"] = "raw" not in kind
    function: Callable[..., Tensor] = nt_xent
    if "compiled" in kind:
        function = torch.compile(nt_xent, fullgraph=True, backend="aot_eager")
    loss = function(z, temperature=tensor_tau, **options)
    loss.backward()
    assert z.grad is not None and tensor_tau.grad is not None
    return loss.item(), z.grad.numpy(), tensor_tau.grad.item()


def linear_model_gradients(whole: bool) -> list[Any]:
    """Gradients of a small model under DDP with half the batch, or alone with all of it."""
    group = group_of(2)
    if dist.get_rank() >= 2:
        return []
    torch.manual_seed(3)
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 5)
    )
    model.log_tau = torch.nn.Parameter(torch.tensor(-1.5))
    x = whole_batch(24, 6)
    if whole:
        loss = nt_xent(model(x), temperature=model.log_tau.exp())
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(_WithTau(model), process_group=group)
        loss = wrapped(own_rows(x, 2), group)
    loss.backward()
    return [p.grad.numpy() for p in model.parameters() if p.grad is not None]


class _WithTau(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, group: Any) -> Tensor:
        tau = self.model.get_parameter("log_tau").exp()
        return nt_xent(self.model(x), temperature=tau, group=group)


def unequal_ranks(what: str, impl: Implementation) -> str:
    """Return what a rank says where ranks bring different shapes."""
    rank = dist.get_rank()
    z = torch.ones(4 + 2 * (rank == 1 and what == "rows"), 3 + (rank == 2 and what == "width"))
    ids = torch.arange(4) // 2 if rank == 0 and what == "ids" else None
    try:
        nt_xent(z, ids=ids, group=dist.group.WORLD, impl=impl)
    except ArgumentError as error:
        return str(error)
    return "no error"


def bad_argument_of_one_rank(what: str, impl: Implementation, group: Any = None) -> str:
    """Return what a rank says where the arguments of rank 1 are none."""
    bad = dist.get_rank() == 1
    z = torch.ones(7 if bad and what == "rows" else 4, 3)
    options: dict[str, Any] = {"group": group or dist.group.WORLD, "impl": impl}
    if what == "ids":
        options["ids"] = (torch.arange(4) // 2).to(torch.int32 if bad else torch.int64)
    if bad and what == "temperature":
        options["temperature"] = -1
    if bad and what == "impl":
        options["impl"] = "triton"
    try:
        nt_xent(z, **options)
    except ArgumentError as error:
        return str(error)
    return "no error"


def as_with_nccl_alone(what: str, impl: Implementation) -> tuple[str, str, int]:
    """Make a first and a later call with a bad argument on rank 1, in a group that hides its gloo.

    Return what was raised, and how often ranks were compared in the sound calls between.
    """
    talks, device, compare = room._talks_between_cpus, room._own_device, room._compare
    counted: list[Any] = []

    def count(*args: Any, **named: Any) -> None:
        counted.append(args)
        compare(*args, **named)

    room._talks_between_cpus = lambda group: False
    room._own_device = lambda: "cpu"
    group = dist.new_group([0, 1, 2])
    try:
        first = bad_argument_of_one_rank(what, impl, group)
        room._compare = count
        for number in (4, 4, 6, 4, 6):
            nt_xent(torch.ones(number, 3), group=group, impl=impl)
        # the others would wait for ever: here they are not even called
        later = bad_argument_of_one_rank(what, impl, group) if dist.get_rank() == 1 else first
        return first, later, len(counted)
    finally:
        room._talks_between_cpus, room._own_device, room._compare = talks, device, compare


def one_bad_row(impl: Implementation) -> tuple[float, bool]:
    """Return loss, and whether the gradient is NaN, where rank 1 has NaN and there is no anchor."""
    z = torch.ones(4, 3)
    z[2, 1] = torch.nan if dist.get_rank() == 1 else 2.0
    z.requires_grad_()
    ids = torch.arange(4) + 4 * dist.get_rank()
    loss = nt_xent(z, ids=ids, group=dist.group.WORLD, impl=impl)
    loss.backward()
    assert z.grad is not None
    return loss.item(), bool(z.grad.isnan().any())


def outside_the_group() -> str:
    group_of(2)
    if dist.get_rank() < 2:
        return ""
    try:
        nt_xent(torch.ones(4, 3), group=group_of(2))
    except ArgumentError as error:
        return str(error)
    return "no error"


def peak_memory(impl: Implementation, tau: float, with_ids: bool, rows: int) -> float:
    """Return MB above the inputs at the peak of forward and backward; D = 128."""
    nt_xent(torch.ones(64, 128, requires_grad=True), impl=impl).backward()
    z = torch.randn(rows, 128, requires_grad=True)
    ids = torch.arange(rows) // 3 if with_ids else None
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak starts from here
    nt_xent(z, temperature=tau, ids=ids, impl=impl).backward()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    pool = Ranks(3)
    yield pool
    pool.close()


def global_result(parts: list[Any], size: int) -> Result:
    """What a wrapper that takes the mean over ranks sees, rows back in the order of one process."""
    values, grads, taus = zip(*parts[:size], strict=True)
    views = torch.stack([torch.from_numpy(grad).unflatten(0, (2, -1)) for grad in grads], 1)
    return Result(
        torch.tensor(values).mean(), views.flatten(0, 2) / size, torch.tensor(taus).mean()
    )


KINDS = ["pairs", "ids", "ids-raw"]
# the reference gathers by torch.distributed.nn, which breaks a graph
IMPL_AND_KIND: list[Any] = [("reference", kind) for kind in KINDS]
for kind in [*KINDS, "pairs-compiled", "ids-compiled"]:
    IMPL_AND_KIND += [("streaming", kind), pytest.param("cpp", kind, marks=BUILT)]


@pytest.mark.parametrize(("impl", "kind"), IMPL_AND_KIND)
@pytest.mark.parametrize("tau", [0.02, 0.2])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_equal_one_process(
    size: int, tau: float, kind: str, impl: Implementation, ranks: Ranks
) -> None:
    rows = 36
    tau = 50 * tau if "raw" in kind else tau
    ids = uneven_ids(rows) if "ids" in kind else None
    truth = oracle(whole_batch(rows), tau, ids, normalize="raw" not in kind)
    result = global_result(ranks.run(on_rank, size, rows, tau, kind, impl), size)
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=1e-5, atol=1e-6)
    scale = truth.grad_z.abs().max().item()
    torch.testing.assert_close(
        result.grad_z.double(), truth.grad_z, rtol=1e-4, atol=5e-6 * scale, check_dtype=False
    )
    torch.testing.assert_close(result.grad_tau.double(), truth.grad_tau, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("impl", ["streaming", CPP])
def test_rows_of_more_than_one_tile(impl: Implementation, ranks: Ranks) -> None:
    truth = oracle(whole_batch(1236), 0.1)
    result = global_result(ranks.run(on_rank, 2, 1236, 0.1, "pairs", impl), 2)
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.grad_z.double(), truth.grad_z, rtol=1e-3, atol=1e-9)


def test_ddp_gets_the_gradients_of_the_whole_batch(ranks: Ranks) -> None:
    averaged = ranks.run(linear_model_gradients, False)
    alone = ranks.run(linear_model_gradients, True)[0]
    assert len(alone) == 5
    for rank in (0, 1):
        for mine, right in zip(averaged[rank], alone, strict=True):
            assert mine == pytest.approx(right, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("what", ["rows", "width", "ids"])
@pytest.mark.parametrize("impl", ["reference", "streaming", CPP])
def test_unequal_ranks_are_named(what: str, impl: Implementation, ranks: Ranks) -> None:
    wanted = {
        "rows": "rank 0 has 4 x 3 in float32, rank 1 has 6 x 3 in float32, rank 2 has 4 x 3",
        "width": "rank 0 has 4 x 3 in float32, rank 1 has 4 x 3 in float32, rank 2 has 4 x 4",
        "ids": "rank 0 has 4 x 3 in float32 with ids, rank 1 has 4 x 3 in float32, rank 2",
    }
    for message in ranks.run(unequal_ranks, what, impl):
        assert wanted[what] in message


@pytest.mark.parametrize("what", ["rows", "ids", "temperature", "impl"])
@pytest.mark.parametrize("impl", ["reference", "streaming", CPP])
def test_what_one_rank_cannot_take_is_raised_on_all(
    what: str, impl: Implementation, ranks: Ranks
) -> None:
    wanted = {
        "rows": "nt_xent: z has 7 rows, which is no even number",
        "ids": "nt_xent: ids is torch.int32 [4]; use torch.int64 [4]",
        "temperature": "nt_xent: temperature=-1; use a positive number",
        "impl": "nt_xent: impl='triton' is not possible here",
    }
    messages = ranks.run(bad_argument_of_one_rank, what, impl)
    assert len(set(messages)) == 1
    assert messages[0].startswith(wanted[what]) and messages[0].endswith(" (on rank 1)")


@pytest.mark.parametrize("what", ["rows", "temperature"])
@pytest.mark.parametrize("impl", ["reference", "streaming"])
def test_without_gloo_it_is_so_at_the_first_call(
    what: str, impl: Implementation, ranks: Ranks
) -> None:
    """And later calls compare a shape once; the rank that is wrong raises alone, at once."""
    said = {"rows": "nt_xent: z has 7 rows", "temperature": "nt_xent: temperature=-1"}[what]
    for first, later, compared in ranks.run(as_with_nccl_alone, what, impl):
        assert first.startswith(said) and first.endswith(" (on rank 1)")
        assert later.startswith(said) and compared == 2
    assert not ranks.run(as_with_nccl_alone, what, impl)[1][1].endswith(" (on rank 1)")


@pytest.mark.parametrize("impl", ["reference", "streaming", CPP])
def test_nan_of_one_rank_shows_on_all(impl: Implementation, ranks: Ranks) -> None:
    for loss, in_gradient in ranks.run(one_bad_row, impl):
        assert math.isnan(loss) and in_gradient


def test_a_process_outside_the_group_is_told(ranks: Ranks) -> None:
    assert "group does not contain this process" in ranks.run(outside_the_group)[2]


MEMORY = [("streaming", 0.02, False), ("streaming", 0.1, False), ("streaming", 0.1, True)]


@pytest.mark.parametrize(("impl", "tau", "with_ids"), MEMORY)
def test_memory_of_a_large_batch(impl: str, tau: float, with_ids: bool, ranks: Ranks) -> None:
    megabytes = on_first(ranks, impl, tau, with_ids, 16384)
    assert megabytes < (200 if with_ids else 120), "one dense matrix has 1024, we promise 300"


@BUILT
@pytest.mark.parametrize("tau", [0.02, 0.1])
@pytest.mark.parametrize("rows", [16384, pytest.param(32768, marks=pytest.mark.slow)])
def test_cpp_takes_little_beside_input_and_gradient(rows: int, tau: float, ranks: Ranks) -> None:
    gradient = rows * 128 * 4 / 2**20
    assert on_first(ranks, "cpp", tau, False, rows) - gradient < 64 * rows / 32768 + 8


def on_first(ranks: Ranks, *arguments: Any) -> float:
    ((worked, megabytes),) = ranks.answers([0], peak_memory, *arguments)
    assert worked, megabytes
    return float(megabytes)
