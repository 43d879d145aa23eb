"""SwAV as a method: frozen prototypes, the queue by hand, multi-crop, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.losses import sinkhorn, swav
from ssgear.methods.base import Embeddings, Facts
from ssgear.methods.swav import SwAV
from ssgear.models.encoders import build_encoder
from tests.data.view_stores import folder
from tests.methods.contract import arguments, train

ROWS, SIDE, WIDTH, PROTOTYPES = 6, 16, 5, 4


def build(*, batch_size: int = ROWS, norm: str = "group", **settings: Any) -> SwAV:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm=norm), SIDE, seed=0)  # type: ignore[arg-type]
    facts = Facts(augmentation=view_set("simclr"), num_images=24, epochs=20, batch_size=batch_size)
    small: dict[str, Any] = {"projector_dims": (9, WIDTH), "prototypes": PROTOTYPES}
    return SwAV.build(SwAV.Config(**{**small, **settings}), encoder, facts)


def make_batch(sides: tuple[int, ...] = (SIDE, SIDE), **fields: Any) -> Batch:
    generator = torch.Generator().manual_seed(3)
    pixels = [torch.randn(ROWS, 3, side, side, generator=generator) for side in sides]
    rows = torch.arange(ROWS)
    return Batch(**{"views": pixels, "index": rows, "position": rows, "epoch": 5, **fields})


def cosines(method: SwAV, z: Tensor) -> Tensor:
    return F.normalize(z.double()) @ F.normalize(method.prototypes.weight.double()).T


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3},
        {"epsilon": 0.3},
        {"sinkhorn_iterations": 1},
        {"code_views": 3},
    ],
)
def test_the_loss_is_swapped_prediction_of_cosines(settings: dict[str, Any]) -> None:
    method, batch = build(**settings), make_batch((SIDE, SIDE, 8))
    zs = method.embed(method.phases[0], batch).online
    scores = [cosines(method, z) for z in zs]
    epsilon, iterations = settings.get("epsilon", 0.05), settings.get("sinkhorn_iterations", 3)
    codes = [
        sinkhorn(each, epsilon=epsilon, iterations=iterations)
        for each in scores[: settings.get("code_views", 2)]
    ]
    wanted = swav(scores, codes, temperature=settings.get("temperature", 0.1))
    loss = method.loss(method.phases[0], batch).total
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


def test_views_of_one_size_go_through_the_encoder_together() -> None:
    """Batch norm sees both large crops at once, as published, and all small ones at once."""
    method, batch = build(norm="batch"), make_batch((SIDE, 8, SIDE, 8, 8))
    seen: list[tuple[int, ...]] = []
    method.encoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    zs = method.embed(method.phases[0], batch).online
    assert seen == [(2 * ROWS, 3, SIDE, SIDE), (3 * ROWS, 3, 8, 8)]
    method.eval()
    alone = [
        method.embed(method.phases[0], dataclasses.replace(batch, views=[view])).online[0]
        for view in batch.views
    ]
    for z, wanted in zip(method.embed(method.phases[0], batch).online, alone, strict=True):
        torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)
    assert [len(z) for z in zs] == [ROWS] * 5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_prototypes_stay_for_the_first_epochs(name: str) -> None:
    method = build(freeze_prototypes_epochs=2)
    kind = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
    optimizer = kind(method.parameters(), lr=0.1, weight_decay=0.0)
    first = method.prototypes.weight.detach().clone()
    encoder = method.projector[0].weight.detach().clone()
    for epoch in (0, 1, 2):
        method.loss(method.phases[0], make_batch(epoch=epoch)).total.backward()
        assert method.prototypes.weight.grad is not None
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(method.prototypes.weight, first) is (epoch < 2)
    assert not torch.equal(method.projector[0].weight, encoder)


def test_codes_give_no_gradient_and_prediction_gives_one_to_every_weight() -> None:
    method, batch = build(), make_batch()
    method.loss(method.phases[0], batch).total.backward()
    assert [n for n, weight in method.named_parameters() if weight.grad is None] == []
    wanted = torch.autograd.functional.jacobian
    z1, z2 = (z.detach() for z in method.embed(method.phases[0], batch).online)
    codes = [sinkhorn(cosines(method, z)) for z in (z1, z2)]  # constants of the oracle

    def predicted(z: Tensor) -> Tensor:
        return swav([cosines(method, z), cosines(method, z2)], codes)

    def ours(z: Tensor) -> Tensor:
        return method.loss_of(method.phases[0], Embeddings((z, z2)), batch).total

    torch.testing.assert_close(wanted(ours, z1), wanted(predicted, z1), rtol=1e-3, atol=1e-5)


def test_the_queue_by_hand() -> None:
    """Filled from an epoch on, used when full: then codes are made of its rows and the batch's."""
    method = build(queue_length=2 * ROWS, queue_from_epoch=3)
    phase = method.phases[0]
    kept: list[tuple[Tensor, ...]] = []
    for step, epoch in enumerate((2, 3, 4)):
        batch = make_batch(epoch=epoch)
        batch.views[0].add_(step)  # type: ignore[index]
        terms = method.loss(phase, batch)
        zs = tuple(z.detach() for z in method.embed(phase, batch).online)
        alone = swav([cosines(method, z) for z in zs], [sinkhorn(cosines(method, z)) for z in zs])
        torch.testing.assert_close(terms.total, alone, rtol=1e-4, atol=1e-5)
        assert bool(terms.carry) is (epoch >= 3)
        method.after_step(phase, terms.carry, 0.1)
        kept += [zs] if epoch >= 3 else []
    batch = make_batch(epoch=5)
    zs = tuple(z.detach() for z in method.embed(phase, batch).online)
    codes = [
        sinkhorn(cosines(method, torch.cat([*(past[view] for past in kept), zs[view]])))[-ROWS:]
        for view in range(2)
    ]
    together = swav([cosines(method, z) for z in zs], codes)
    torch.testing.assert_close(method.loss(phase, batch).total, together, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        together, swav([cosines(method, z) for z in zs], [sinkhorn(cosines(method, z)) for z in zs])
    )


def test_before_the_queue_begins_no_step_waits_for_the_device() -> None:
    method = build(queue_length=2 * ROWS, queue_from_epoch=3)
    method.queues[0].filled = torch.zeros((), device="meta")  # whoever reads it fails
    assert not method.loss(method.phases[0], make_batch(epoch=2)).carry
    with pytest.raises(RuntimeError, match="meta"):
        method.loss(method.phases[0], make_batch(epoch=3))


def test_what_takes_the_prototypes_length_away_is_no_part_of_the_loss() -> None:
    """Only their directions matter, and so they do not decay."""
    method, batch = build(), make_batch()
    before = method.loss(method.phases[0], batch).total
    with torch.no_grad():
        method.prototypes.weight.mul_(torch.rand(PROTOTYPES, 1) + 0.5)
    torch.testing.assert_close(method.loss(method.phases[0], batch).total, before)
    assert method.prototypes.no_weight_decay() == {"weight"}


def test_views_of_a_set() -> None:
    method = build()
    assert method.view_specs(view_set("simclr")) == view_set("simclr") * 2
    assert len(method.view_specs(view_set("swav-multicrop"))) == 8
    assert len(build(code_views=3).view_specs(view_set("simclr"))) == 3
    with pytest.raises(ConfigError, match=r"code-views: 3 .* begins with 2 of full size; use 2"):
        build(code_views=3).view_specs(view_set("swav-multicrop"))


def test_multi_crop_trains_whole_and_in_slices(tmp_path: Path) -> None:
    """Two crops of 16 and six of 7 pixels: gradients are those of the whole."""
    images = folder(tmp_path / "images", 40)
    given = ("--data.augmentation", "swav-multicrop", "--optim.max-steps", "4")
    whole = train(arguments("swav", tmp_path / "whole", images, *given))
    sliced = arguments("swav", tmp_path / "sliced", images, *given, "--optim.micro-batch", "6")
    assert train(sliced) == pytest.approx(whole, rel=2e-5)
    assert len(set(whole)) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"code_views": 1}, "--method.code-views: 1 is not possible; .* use 2 or more"),
        ({"prototypes": 1}, "--method.prototypes: 1 is not possible"),
        ({"prototypes": 7}, "--method.prototypes: 7 cannot be filled .* the 6 images"),
        ({"prototypes": 19, "queue_length": 12}, "cannot be filled equally by the 18 images"),
        ({"queue_length": 8}, "--method.queue-length: 8 is no multiple of the 6 images"),
        (
            {"queue_length": 12, "queue_from_epoch": 20},
            "--method.queue-from-epoch: 20 .* the run ends after 20 and the queue",
        ),
        (
            {"queue_from_epoch": 3},
            "--method.queue-from-epoch: 3 .* is for a --method.queue-length above 0; leave it",
        ),
        ({"epsilon": 0.0}, "--method.epsilon: 0.0 is not possible"),
        ({"temperature": -1.0}, "--method.temperature"),
        ({"sinkhorn_iterations": 0}, "--method.sinkhorn-iterations: 0 is not possible; use 1"),
        ({"sinkhorn_iterations": 10**9}, "--method.sinkhorn-iterations: 1000000000"),
        (
            {"queue_length": 24, "queue_from_epoch": 19},
            "--method.queue-from-epoch: 19 .* would never be filled",
        ),
        ({"freeze_prototypes_epochs": -1}, "--method.freeze-prototypes-epochs"),
        (
            {"freeze_prototypes_epochs": 20},
            "--method.freeze-prototypes-epochs: 20 .* ends after 20 .* never be trained",
        ),
        ({"epsilon": 1e-50}, "--method.epsilon: 1e-50 is not possible; .* float32 holds"),
        ({"projector_dims": ()}, "--method.projector-dims"),
    ],
)
def test_settings_that_define_no_codes_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(**settings)
