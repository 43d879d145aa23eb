"""SupCon (Khosla et al. 2020, arXiv 2004.11362): contrastive learning from labels.

`--method supcon`. SimCLR whose positives are all rows of the same class, its "out" loss, which is
NT-Xent with labels for ids (docs/math.md 1), over the global batch. Images without a label (-1,
those of a store of synthetic images) have their own views for positives and are negatives of the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.losses import nt_xent
from ssgear.methods.base import (
    Card,
    Embeddings,
    Facts,
    LossTerms,
    Method,
    Phase,
    one_phase,
)
from ssgear.models.heads import check_positive, check_widths
from ssgear.models.projector import head

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # section 4.1 trains on CIFAR-10 at batch 1024, learning rate 0.5; ResNet-18 as the others here
    "supcon-cifar10": {
        "extends": "cifar10",
        "optim.name": "sgd",
        "optim.batch_size": 1024,
        "optim.lr": 0.5,
    },
    # section 4: batch 6144, AutoAugment, LARS; the learning rate is SimCLR's rule, 0.3 per 256
    "supcon-imagenet": {
        "extends": "imagenet",
        "data.size": 224,
        "data.augmentation": "autoaugment",
        "optim.batch_size": 6144,
        "optim.lr": 7.2,
        "optim.epochs": 350,
        "optim.warmup_epochs": 5.0,
        "engine.precision": "bf16",
        "eval.every": 10,
    },
    # minutes on two cores
    "supcon-quick": {
        "extends": "quick",
        "method.projector_dims": [256, 64],
    },
    "supcon-tiny": {"extends": "supcon-quick", "method.projector_dims": [16, 8]},
}


class SupCon(Method):
    """Views of images of one class attract each other and repel all others of the batch."""

    card = Card(
        title="SupCon",
        sees_labels=True,
        collapse_hint="try a lower --optim.lr, or a larger --optim.batch-size: all classes in each",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of SupCon."""

        temperature: float = 0.1
        """Temperature tau, > 0."""
        projector_dims: tuple[int, ...] = (2048, 128)
        """Widths of the projector's layers; the last is the loss's width D."""

        def __post_init__(self) -> None:
            """Refuse temperatures and widths that define no loss."""
            check_positive(temperature=self.temperature)
            check_widths(projector_dims=self.projector_dims)

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build the projector on top of `encoder`."""
        super().__init__(config, encoder)
        self.projector = head("projector", encoder, config.projector_dims)
        self.groups, self.phases = one_phase({"encoder": encoder, "projector": self.projector})

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for images that have labels."""
        if facts.num_classes is None:
            raise ConfigError(
                "--method: supcon learns from labels of two classes or more, and these images have "
                "none, or one class; use class folders or --data.labels, or --method simclr"
            )
        return super().build(config, encoder, facts)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return two views, or as many as the set has."""
        return spread(named, max(2, len(named)))

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return one projection [n, D] per view."""
        return Embeddings(tuple(self.projector(self.encoder(view)) for view in batch.views))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return NT-Xent of the stacked views with classes for ids, over the rows of all ranks."""
        z_MD = torch.cat(z.online)  # M = V * n, views stacked
        ids_M = class_ids(batch).repeat(len(z.online))
        tau, group = self.config.temperature, self.process_group
        return LossTerms(total=nt_xent(z_MD, temperature=tau, ids=ids_M, group=group))


def class_ids(batch: Batch) -> Tensor:
    """Return an id for each row, [n] int64: its class, or a negative one of its own without."""
    if batch.labels is None:
        raise ConfigError(
            "--method.ssl: supcon sees synthetic images as rows of their own here, which have no "
            "label; use --method.condition label or instance, or --method.ssl simclr"
        )
    labels_n = batch.labels
    return torch.where(labels_n >= 0, labels_n, -1 - batch.position.to(labels_n.device))
