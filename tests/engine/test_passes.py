"""Where the time of steps goes: each part gets its own, and nothing that is computed changes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from ssgear.config.schema import OptimConfig
from ssgear.data.loaders.batch import Batch
from ssgear.distributed import World
from ssgear.engine.meter import Meter
from ssgear.engine.passes import forward_backward, has_two_parts
from ssgear.engine.runtime import TorchRuntime
from ssgear.methods.base import Embeddings, LossTerms, Method, Phase, one_phase


class Clock:
    """A clock that moves where networks of this file are computed."""

    now = 0.0


class Slow(torch.autograd.Function):
    """Identity that takes given times in forward and backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor, there: float, back: float) -> Tensor:
        Clock.now += there
        ctx.back = back  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        Clock.now += ctx.back  # type: ignore[attr-defined]
        return gradient, None, None


class Toy(Method):
    """Takes 2 s and 3 s in the encoder's passes of a view, 4 s and 5 s in the loss's."""

    def __init__(self) -> None:
        encoder = nn.Linear(3, 2)
        super().__init__(None, encoder)  # type: ignore[arg-type]
        self.groups, self.phases = one_phase({"encoder": encoder})

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        return Embeddings(tuple(Slow.apply(self.encoder(v), 2.0, 3.0) for v in batch.views))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        return LossTerms(Slow.apply(torch.cat(z.online).square().mean(), 4.0, 5.0))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)


class InOnePiece(Toy):
    def loss(self, phase: Phase, batch: Batch) -> LossTerms:
        return self.loss_of(phase, self.embed(phase, batch), batch)


def step(method: Method, *, micro: int | None = None, trains_encoder: bool = True) -> Meter:
    runtime = TorchRuntime(method, OptimConfig(), World())
    rows = torch.arange(5)
    views = [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    batch = Batch(views=views, index=rows, position=rows)
    meter = Meter()
    forward_backward(
        runtime, method, method.phases[0], batch, meter, micro=micro, trains_encoder=trains_encoder
    )
    return meter


def test_encoder_and_loss_are_told_apart() -> None:
    meter = step(Toy())
    assert meter.parts["encoder"] == 2 * 2 + 2 * 3
    assert meter.parts["loss"] == 4 + 5


def test_gradient_caching_counts_both_passes_of_the_encoder() -> None:
    meter = step(Toy(), micro=3)  # two slices of two views, embedded twice
    assert meter.parts["encoder"] == 8 * 2 + 4 * 3
    assert meter.parts["loss"] == 4 + 5


@pytest.mark.parametrize(
    ("method", "trains_encoder", "part"),
    [(InOnePiece, True, "encoder_and_loss"), (InOnePiece, False, "generator"),
     (Toy, False, "generator")],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_one_part(
    method: type[Toy], trains_encoder: bool, part: str
) -> None:
    meter = step(method(), trains_encoder=trains_encoder)
    assert meter.parts == {part: 19.0}


def test_gradients_are_those_without_clocks() -> None:
    method = Toy()
    step(method)
    timed = [p.grad for p in method.parameters()]
    for parameter in method.parameters():
        parameter.grad = None
    rows = torch.arange(5)
    views = [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in (1, 2)]
    batch = Batch(views=views, index=rows, position=rows)
    method.loss(method.phases[0], batch).total.backward()  # type: ignore[no-untyped-call]
    for gradient, parameter in zip(timed, method.parameters(), strict=True):
        assert gradient is not None and torch.equal(gradient, parameter.grad)


def test_a_loss_of_its_own_is_noticed() -> None:
    method = Toy()
    assert has_two_parts(method) and not has_two_parts(InOnePiece())
    method.loss = lambda phase, batch: LossTerms(torch.zeros(()))  # type: ignore[method-assign]
    assert not has_two_parts(method)
