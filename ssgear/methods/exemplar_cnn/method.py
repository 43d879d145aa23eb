"""Exemplar-CNN (Dosovitskiy et al. 2014, arXiv 1406.6909): tell thousands of patches apart.

`--method exemplar-cnn`. Every seed patch, drawn where the gradient of the unlabelled images is
strong (methods/exemplar_cnn/patches.py), is a class of its own; it is shown under composed random
transformations (methods/exemplar_cnn/transforms.py), and a softmax over all patches must name it.
Its side is `--data.size`. Of `--data.augmentation` only mean and deviation are used. Other tasks
take the features of all layers, pooled in quadrants: `python -m ssgear.evaluate RUN --protocol
quadrants --data.size 96`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import CheckpointError, ConfigError, require
from ssgear.methods.base import Facts, Group, LossTerms, Method, Phase
from ssgear.methods.exemplar_cnn.patches import draw_patches, patch_source
from ssgear.methods.exemplar_cnn.transforms import PatchSpec, augment_patches
from ssgear.models.heads import seeded

if TYPE_CHECKING:
    from ssgear.data.sources import Source
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
}
PUBLISHED_CLASSES = 8000


class ExemplarCNN(Method):
    """A classifier of transformed patches."""

    smallest = ("--method.classes", "32", "--model.name", "4c5-8c5-16f")
    final = ("blocks", "quadrants")
    judged_by = "linear_probe_quadrants"
    reads_images = True
    aim = "Training asks which patch each of them is of."

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

    def __init__(self, config: Config, encoder: Encoder, classes: int) -> None:
        """Build the classifier on top of `encoder`."""
        super().__init__(config, encoder)
        self.classes = classes
        self.seed = torch.initial_seed()
        with seeded(self.seed, "classifier"):
            self.classifier = nn.Linear(encoder.num_features, classes)
        self.spec = PatchSpec()
        self.groups = (Group("encoder", {"encoder": encoder, "classifier": self.classifier}),)
        self.phases = (Phase(name="encoder", group="encoder"),)

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a number of images."""
        classes = config.classes or max(2, min(PUBLISHED_CLASSES, facts.num_images))
        return cls(config, encoder, classes)

    @property
    def window(self) -> int:
        """Side of what is kept of an image: a patch, and all that can move into it."""
        turn = math.radians(self.spec.rotation)
        reach = self.spec.scale[1] / 2 * (math.cos(turn) + math.sin(turn)) + self.spec.translation
        return self.encoder.size + 2 * math.ceil((reach - 0.5) * self.encoder.size)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return one view, the window as it is; patches are made of it here."""
        (first,) = spread(named, 1)
        self.spec = PatchSpec(mean=first.mean, std=first.std)
        share = self.window / self.encoder.size
        return (AugmentSpec(size_share=share, mean=first.mean, std=first.std),)

    def wrap_source(self, source: Source) -> Source:
        """Return the seed patches of the images, with labels of their own."""
        side = self.encoder.size
        places = draw_patches(source, self.classes, side=side, seed=self.seed)
        wanted = self.classes if self.config.classes else 2
        if len(places.rows) < wanted:
            raise ConfigError(
                f"--method.classes: {wanted} patches of {side} x {side} pixels are wanted, and "
                f"these {len(source)} images hold {places.available} that share half of their "
                "pixels at most; use fewer, more images or a smaller --data.size"
            )
        self.register_buffer("patches", places.rows.clone().to(self.classifier.weight.device))
        self._chosen = places.rows
        return patch_source(source, places, side=side, window=self.window)

    def after_load(self) -> None:
        """Refuse a checkpoint whose classes are other patches than those that can be cut now."""
        if not torch.equal(self.get_buffer("patches").cpu(), self._chosen):
            raise CheckpointError(
                "--resume: other patches were drawn from these images than the run began with: "
                "files were lost, added or changed; restore them, or start a new run"
            )

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return transformed patches [n, 3, side, side], one of each view."""
        mean, std = (
            torch.tensor(row, device=batch.device).view(3, 1, 1)
            for row in (self.spec.mean, self.spec.std)
        )
        return tuple(
            augment_patches(
                window * std + mean,
                self.spec,
                size=self.encoder.size,
                seed=batch.seed,
                epoch=batch.epoch,
                indices=batch.index.to(batch.device),
                view=view,
            )
            for view, window in enumerate(batch.views)
        )

    def embed(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the scores [n, K] of each patch that was seen."""
        return tuple(
            self.classifier(self._dropped(features, batch, view))
            for view, features in enumerate(self.compared(phase, batch))
        )

    def compared(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the features of each patch that was seen."""
        return tuple(self.encoder(patches) for patches in self.seen(batch))

    def loss_of(self, phase: Phase, zs: tuple[Tensor, ...], batch: Batch) -> LossTerms:
        """Return the cross-entropy of the patches' own classes."""
        assert batch.labels is not None
        scores = zs[0].float()
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
