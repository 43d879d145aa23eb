"""Exemplar-CNN (Dosovitskiy et al. 2014, arXiv 1406.6909): tell thousands of patches apart.

`--method exemplar-cnn`. Every seed patch, drawn where the gradient of the unlabelled images is
strong (methods/exemplar_cnn/patches.py), is a class of its own; it is shown under composed random
transformations (methods/exemplar_cnn/transforms.py), and a softmax over all patches must name it.
Its side is `--data.size`. Of `--data.augmentation` only mean and deviation are used. Other tasks
take the features of all layers, pooled in quadrants: `python -m ssgear.evaluate RUN --protocol
quadrants --data.size 96`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import CheckpointError, require
from ssgear.methods.base import (
    Card,
    Embeddings,
    Facts,
    Figure,
    LossTerms,
    Method,
    Phase,
    one_phase,
)
from ssgear.methods.exemplar_cnn.pretext import Patches
from ssgear.models.heads import seeded

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # 8,000 patches and the middle one of three published networks; the paper names no batch size
    "exemplar-cnn-stl10": {
        "data.source": "stl10",
        "data.size": 32,
        "data.augmentation": "none",
        "method.classes": 8000,
        "model.name": "64c5-128c5-256c5-512f",
        "optim.name": "sgd",
        "optim.batch_size": 64,
        "optim.lr": 0.01,
        "optim.weight_decay": 0.0,
        "optim.epochs": 1000,
        "optim.warmup_epochs": 1.0,
        "eval.every": 100,
        "checkpoint.every": 5000,
    },
    # minutes on two cores, in which 500 patches are learned well and 1000 are not (docs/log.md)
    "exemplar-cnn-quick": {
        "data.size": 32,
        "data.augmentation": "none",
        "method.classes": 500,
        "method.dropout": 0.0,
        "model.name": "16c5-32c5-64c5-128f",
        "optim.name": "adamw",
        "optim.lr": 1e-3,
        "optim.weight_decay": 1e-4,
        "optim.batch_size": 64,
        "optim.epochs": 360,
        "optim.warmup_epochs": 2.0,
        "log.every": 40,
        "eval.every": 90,
    },
    "exemplar-cnn-tiny": {
        "extends": "exemplar-cnn-quick",
        "method.classes": 32,
        "model.name": "4c5-8c5-16f",
    },
}


class ExemplarCNN(Method):
    """A classifier of transformed patches."""

    card = Card(
        title="Exemplar-CNN",
        aim="Training asks which patch each of them is of.",
        final=("blocks", "quadrants"),
        judged_by="linear_probe_quadrants",
        figures={
            "linear_probe_quadrants": Figure(title="Linear probe on all layers, in quadrants")
        },
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of Exemplar-CNN."""

        classes: int | None = None
        """Patches, each a class of its own; by default 8000, or one an image where fewer are."""
        dropout: float = 0.5
        """Share of the features that the classifier does not see, in [0, 1)."""

        def __post_init__(self) -> None:
            """Refuse a classifier of one class, and one that sees nothing."""
            few = self.classes is not None and self.classes < 2
            require(not few, "--method.classes", self.classes, "use at least 2")
            require(0 <= self.dropout < 1, "--method.dropout", self.dropout, "use [0, 1)")

    config: Config
    pretext: Patches

    def __init__(self, config: Config, encoder: Encoder, pretext: Patches) -> None:
        """Build the classifier of the patches on top of `encoder`."""
        super().__init__(config, encoder)
        self.pretext = pretext
        with seeded(torch.initial_seed(), "classifier"):
            self.classifier = nn.Linear(encoder.num_features, pretext.num_classes)
        self.register_buffer("patches", pretext.places.rows.clone())
        self.groups, self.phases = one_phase({"encoder": encoder, "classifier": self.classifier})

    @classmethod
    def build_pretext(cls, config: Config) -> Patches:
        """Return what cuts patches out of the images."""
        return Patches(classes=config.classes)

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for the patches that were cut."""
        assert isinstance(facts.pretext, Patches)
        return cls(config, encoder, facts.pretext)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return one view, the window as it is; patches are made of it here."""
        (first,) = spread(named, 1)
        share = self.pretext.window / self.encoder.size
        return (AugmentSpec(size_share=share, mean=first.mean, std=first.std),)

    def after_load(self) -> None:
        """Refuse a checkpoint whose classes are other patches than those that can be cut now."""
        if not torch.equal(self.get_buffer("patches").cpu(), self.pretext.places.rows):
            raise CheckpointError(
                "--resume: other patches were drawn from these images than the run began with: "
                "files were lost, added or changed; restore them, or start a new run"
            )

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return the scores [n, K] of each patch that was seen."""
        return Embeddings(
            tuple(
                self.classifier(self._dropped(features, batch, view))
                for view, features in enumerate(self.health_embeddings(phase, batch))
            )
        )

    def health_embeddings(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the features of each patch that was seen."""
        return tuple(self.encoder(patches) for patches in self.pretext.seen(batch))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the cross-entropy of the patches' own classes."""
        assert batch.labels is not None
        scores = z.online[0].float()
        accuracy = (scores.detach().argmax(1) == batch.labels).float().mean()
        return LossTerms(
            total=F.cross_entropy(scores, batch.labels), parts={"surrogate_accuracy": accuracy}
        )

    def _dropped(self, features: Tensor, batch: Batch, view: int) -> Tensor:
        """Return the features [n, F] after dropout, drawn for each row of the global batch."""
        share = self.config.dropout
        if share == 0 or not self.training:
            return features
        kept = batch.draw(f"dropout {view}", (features.shape[1],)) >= share
        return features * kept / (1 - share)
