"""RotNet (Gidaris et al. 2018, arXiv 1803.07728): predict by which quarter turn an image is turned.

`--method rotnet`. Every image of a batch is shown in all four turns, as published, and a linear
classifier on the encoder's features tells them apart. The features of a middle block serve other
tasks better than the last ones, which know about turns: the final figures have a probe per block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Phase, Pretext, one_phase
from ssgear.models.heads import seeded

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # section 4.1, with a cosine in place of its three steps
    "rotnet-cifar10": {
        "data.source": "cifar10",
        "data.augmentation": "crop-only",
        "data.min_scale": 0.5,
        "model.name": "nin4",
        "optim.name": "sgd",
        "optim.batch_size": 128,
        "optim.lr": 0.1,
        "optim.weight_decay": 5e-4,
        "optim.epochs": 100,
        "optim.warmup_epochs": 0.0,
        "eval.every": 10,
        "checkpoint.every": 2000,
    },
    # ResNet-50 in place of AlexNet: Kolesnikov et al. 2019 (arXiv 1901.09005)
    "rotnet-imagenet": {
        "extends": "imagenet-sgd",
        "data.augmentation": "crop-only",
        "optim.lr": 0.1,
        "optim.epochs": 35,
        "optim.warmup_epochs": 5.0,
        "engine.precision": "bf16",
        "eval.every": 5,
    },
    # minutes on two cores
    "rotnet-quick": {
        "extends": "quick",
        "data.augmentation": "crop-only",
        "data.min_scale": 0.5,
        "optim.batch_size": 32,
        "optim.epochs": 13,
        "optim.warmup_epochs": 1.0,
        "log.every": 40,
        "eval.every": 8,
    },
    "rotnet-tiny": {"extends": "rotnet-quick"},
}
TURNS = 4
"""Quarter turns counterclockwise that are told apart: 0 to 3."""


class Turns(Pretext):
    """Every view in all four turns."""

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the views, then the views a quarter turn further, and so on."""
        return tuple(turned(view, turn) for turn in range(TURNS) for view in batch.views)


class RotNet(Method):
    """A classifier of four turns of every image."""

    card = Card(
        title="RotNet",
        aim="Training asks by how many quarter turns each of them is turned.",
        final=("blocks",),
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of RotNet: there are none."""

    config: Config
    pretext: Turns

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build the classifier on top of `encoder`."""
        super().__init__(config, encoder)
        with seeded(torch.initial_seed(), "classifier"):
            self.classifier = nn.Linear(encoder.num_features, TURNS)
        self.groups, self.phases = one_phase({"encoder": encoder, "classifier": self.classifier})

    @classmethod
    def build_pretext(cls, config: Config) -> Turns:
        """Return what turns the views."""
        return Turns()

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return one view, which is turned after it is made."""
        return spread(named, 1)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return the scores [n, 4] of each image that was seen.

        All go through the encoder together: batch statistics of one turn alone would tell it.
        """
        images = self.pretext.seen(batch)
        scores: Tensor = self.classifier(self.encoder(torch.cat(images)))
        return Embeddings(scores.chunk(len(images)))

    def health_embeddings(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the features of each view: scores of turns are alike for all images."""
        return tuple(self.encoder(view) for view in batch.views)

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the cross-entropy of the turns, a mean over rows and turns."""
        scores = torch.cat(z.online).float()
        turn = torch.arange(TURNS, device=scores.device).repeat_interleave(len(scores) // TURNS)
        accuracy = (scores.detach().argmax(1) == turn).float().mean()
        return LossTerms(total=F.cross_entropy(scores, turn), parts={"rotation_accuracy": accuracy})


def turned(view: Tensor, turn: int) -> Tensor:
    """Return a view after `turn` quarter turns counterclockwise, in its own memory order."""
    if turn == 0:
        return view
    channels_last = view.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return view.rot90(turn, (-2, -1)).contiguous(memory_format=order)
