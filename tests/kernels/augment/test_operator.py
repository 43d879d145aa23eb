"""The fused augmentation inside torch.compile: whole, the same bits, and with its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec
from ssgear.kernels.augment.params import BOX
from ssgear.kernels.augment.views import AugmentSettings, Case, augment_views, crop_resize

CASE = Case(count=6, height=15, width=19, size=9, settings=AugmentSettings(blur_radius=1))
SPEC = AugmentSpec.named("simclr")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Any) -> Any:
    """Compile without generating code: what is asked is whether it can be traced whole."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("size", [9, None])
@pytest.mark.parametrize("channels_last", [False, True])
def test_views_in_a_graph(size: int | None, channels_last: bool) -> None:
    images, params = CASE.make()

    def views(images: Tensor) -> Tensor:
        options: dict[str, Any] = {"size": size, "channels_last": channels_last}
        return augment_views(images, params, CASE.settings, **options) * 2

    made, right = compiled(views)(images), views(images)
    assert torch.equal(made, right) and made.stride() == right.stride()


def test_augment_in_a_graph_that_serves_every_epoch() -> None:
    images, _ = CASE.make()
    graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph

    def view(images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        options: dict[str, Any] = {"size": 8, "seed": 3, "view": 1}
        return augment(images, SPEC, indices=indices, epoch=epoch, **options).relu()

    in_a_graph = torch.compile(view, fullgraph=True, backend=count)
    for epoch in range(6):
        indices = torch.arange(6) + 11 * epoch
        assert torch.equal(in_a_graph(images, indices, epoch), view(images, indices, epoch))
    assert graphs <= 3, "one for numbers as they are first met, one for any"


def test_gradients_go_through_a_graph() -> None:
    pixels, params = CASE.make()

    def loss(images: Tensor) -> Tensor:
        return augment_views(images, params, CASE.settings, size=9).square().mean()

    found = []
    for function in (loss, compiled(loss)):
        images = pixels.float().requires_grad_()
        value = function(images)
        value.backward()
        found.append((value.detach(), images.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] is not None and found[0][1].abs().sum() > 0
    torch.testing.assert_close(found[0][1], found[1][1])


def test_the_operator_is_what_it_says() -> None:
    images, params = CASE.make()
    settings = ("bicubic", True, 1, 0.5, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    given = (params, 9, torch.float32, True, "auto", *settings)
    for pixels in (images, images.float().requires_grad_()):
        torch.library.opcheck(torch.ops.ssgear.augment_views.default, (pixels, *given))


def test_a_crop_in_a_graph() -> None:
    images, params = CASE.make()

    def crop(images: Tensor, boxes: Tensor) -> Tensor:
        return crop_resize(images, boxes, 7)

    boxes = params[:, BOX]
    assert torch.equal(compiled(crop)(images, boxes), crop(images, boxes))


def test_autoaugment_says_that_it_cannot() -> None:
    images, _ = CASE.make()
    spec = AugmentSpec.named("autoaugment")

    def view(images: Tensor) -> Tensor:
        return augment(images, spec, size=8, seed=0, epoch=0, indices=torch.arange(6), view=0)

    with pytest.raises(Exception, match="AutoAugment cannot be compiled"):
        compiled(view)(images)
    assert view(images).shape == (6, 3, 8, 8)
