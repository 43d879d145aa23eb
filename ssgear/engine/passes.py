"""Forward and backward of a phase, with the time of each part counted (engine/meter.py).

Encoder and loss can be told apart where a method's loss is `loss_of(embed(...))`. The backward is
cut in two where the gradient reaches the embeddings: the nodes of a loss come before those of the
encoder, as they were made later. What is computed is the same as without clocks, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.engine.grad_cache import cached_backward
from ssgear.engine.meter import Meter, Part
from ssgear.engine.runtime import Runtime
from ssgear.methods.base import LossTerms, Method, Phase


def forward_backward(
    runtime: Runtime,
    method: Method,
    phase: Phase,
    batch: Batch,
    meter: Meter,
    *,
    micro: int | None,
    trains_encoder: bool,
) -> LossTerms:
    """Compute a phase's loss and leave its complete gradient in the group.

    Args:
        runtime: How.
        method: What.
        phase: The phase.
        batch: This rank's rows.
        meter: Clocks.
        micro: Rows of a slice of gradient caching; None: the batch at once.
        trains_encoder: Whether the phase steps the encoder.

    Returns:
        The loss, detached.
    """
    if micro is not None and micro < len(batch):
        return cached_backward(runtime, method, phase, batch, micro, meter.lap)
    is_cut = trains_encoder and has_two_parts(method)
    function = _in_parts(method, meter) if is_cut else method.loss
    terms: LossTerms = runtime.forward(phase, function, phase, batch)
    runtime.backward(phase, terms.total)
    part: Part = "encoder" if is_cut else "encoder_and_loss" if trains_encoder else "generator"
    meter.lap(part)
    terms.total = terms.total.detach()
    return terms


def has_two_parts(method: Method) -> bool:
    """Whether the loss of a method is `loss_of(embed(...))`, and not its own."""
    return getattr(method.loss, "__func__", None) is Method.loss


def _in_parts(method: Method, meter: Meter) -> Callable[[Phase, Batch], LossTerms]:
    """Return the loss of a method as a function that counts the time of its parts."""

    def loss(phase: Phase, batch: Batch) -> LossTerms:
        z = method.embed(phase, batch)
        meter.lap("encoder")
        terms = method.loss_of(phase, z, batch)
        meter.lap("loss")
        _lap_at(z.online, meter)
        return terms

    return loss


def _lap_at(zs: tuple[Tensor, ...], meter: Meter) -> None:
    """Count the time until the gradient reaches the first of some embeddings to the loss."""
    reached: list[bool] = []

    def on_gradient(gradient: Tensor) -> None:
        if not reached:
            meter.lap("loss")
            reached.append(True)

    for z in zs:
        if z.requires_grad:
            z.register_hook(on_gradient)  # type: ignore[no-untyped-call]
