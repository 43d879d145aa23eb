"""SupCon as a method: labels as ids, rows without one, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.base import Facts
from ssgear.methods.supcon import SupCon, class_ids
from ssgear.models.encoders import build_encoder

ROWS, SIDE = 6, 16
FACTS = Facts(augmentation=view_set("simclr-cifar"), num_images=24, num_classes=3, batch_size=ROWS)


def build(facts: Facts = FACTS, **settings: Any) -> SupCon:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm="group"), SIDE, seed=0)
    return SupCon.build(SupCon.Config(**{"projector_dims": (9, 5), **settings}), encoder, facts)


def make_batch(labels: Tensor | None) -> Batch:
    generator = torch.Generator().manual_seed(3)
    pixels = [torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) for _ in range(2)]
    rows = torch.arange(ROWS)
    return Batch(views=pixels, index=rows, position=rows + 10, labels=labels)


def by_hand(z: Tensor, groups: list[int], tau: float) -> float:
    """Equation 2 of the paper, anchor by anchor."""
    s = F.normalize(z.double()) @ F.normalize(z.double()).T / tau
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        denominator = torch.logsumexp(s[i, others], 0)
        positives = [p for p in others if groups[p] == groups[i]]
        terms.append(-sum(s[i, p] - denominator for p in positives) / len(positives))
    return float(torch.stack(terms).mean())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([0, 1, 2, 0, 1, 1], [0, 1, 2, 0, 1, 1]),
        ([0, 0, -1, -1, 2, -1], [0, 0, 7, 8, 2, 9]),  # without a label: a class of its own
    ],
)
def test_the_loss_is_the_papers(labels: list[int], groups: list[int]) -> None:
    method, batch = build(temperature=0.3), make_batch(torch.tensor(labels))
    z = torch.cat(method.embed(method.phases[0], batch).online).detach()
    loss = method.loss(method.phases[0], batch).total
    assert loss.item() == pytest.approx(by_hand(z, groups * 2, 0.3), rel=1e-5)


def test_rows_without_a_label_have_ids_that_no_class_and_no_other_row_has() -> None:
    ids = class_ids(make_batch(torch.tensor([-1, 0, -1, 2, -1, 0])))
    assert ids.tolist() == [-11, 0, -13, 2, -15, 0]


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"supcon learns from labels .* --data\.labels"):
        build(Facts(augmentation=view_set("simclr"), num_images=24))
    with pytest.raises(ConfigError, match=r"--method\.ssl: supcon"):
        class_ids(make_batch(None))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "--method.temperature: 0.0 is not possible"),
        ({"projector_dims": ()}, "--method.projector-dims"),
    ],
)
def test_settings_that_define_no_loss_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SupCon.Config(**settings)
