"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): views that correlate feature by feature.

`--method barlow-twins`. Two views, a wide projector, and a loss on the cross-correlation of their
embeddings over the global batch (`ssgear.losses.barlow_twins`): 1 on the diagonal, 0 beside it. No
negatives and nothing asymmetric; what keeps features from collapsing are statistics of the batch,
so a batch is computed whole.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ssgear.data.loaders.batch import Batch
from ssgear.errors import require
from ssgear.kernels.checks import LARGEST
from ssgear.losses import barlow_twins
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Needs, Phase, one_phase
from ssgear.models.heads import check_positive, check_widths
from ssgear.models.projector import head

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # solo-learn's recipe: 92.1 % after 1000 epochs
    "barlow-twins-cifar10": {
        "extends": "cifar10",
        "data.augmentation": "byol-cifar",
        "optim.lr": 0.3,
        "method.projector_dims": [2048, 2048, 2048],
        "method.loss_scale": 0.1,
    },
    # section 3: learning rate 0.2 per 256 images, 0.0048 for norms and biases, which LARS does not
    # scale: the loss does, by 0.024, and the decay of 1.5e-6 with it, which meets that gradient
    "barlow-twins-imagenet": {
        "extends": "imagenet",
        "data.size": 224,
        "data.augmentation": "barlow",
        "optim.batch_size": 2048,
        "optim.lr": 1.6,
        "optim.weight_decay": 3.6e-8,
        "method.loss_scale": 0.024,
        "engine.precision": "bf16",
        "checkpoint.every": 5000,
    },
    # minutes on two cores
    "barlow-twins-quick": {
        "extends": "quick",
        "method.projector_dims": [256, 256],
        "method.lambd": 0.02,
    },
    "barlow-twins-tiny": {"extends": "barlow-twins-quick", "method.projector_dims": [16, 8]},
}


class BarlowTwins(Method):
    """Features of two views agree, and differ from each other."""

    card = Card(
        title="Barlow Twins",
        collapse_hint="Barlow Twins lets features repeat each other where --method.lambd or "
        "--method.projector-dims is too small, or --optim.lr too high",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of Barlow Twins."""

        lambd: float = 0.0051
        """Weight of the correlations off the diagonal, lambda, 0 or more."""
        projector_dims: tuple[int, ...] = (8192, 8192, 8192)
        """Widths of the projector's layers; the last is D of the D x D correlations."""
        loss_scale: float = 1.0
        """Factor on the loss, > 0; LARS scales gradients of weights, not those of norms, biases."""

        def __post_init__(self) -> None:
            """Refuse weights and widths that define no loss."""
            right = f"use 0 or more, up to {LARGEST:.1e}"
            require(0 <= self.lambd <= LARGEST, "--method.lambd", self.lambd, right)
            check_widths(projector_dims=self.projector_dims)
            check_positive(loss_scale=self.loss_scale)

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build the projector on top of `encoder`."""
        super().__init__(config, encoder)
        self.projector = head("projector", encoder, config.projector_dims)
        self.groups, self.phases = one_phase({"encoder": encoder, "projector": self.projector})

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Return that the correlations are those of the whole batch."""
        return Needs(whole_batch=True)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return one projection [n, D] per view."""
        return Embeddings(tuple(self.projector(self.encoder(view)) for view in batch.views))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the loss of the views, of all ranks.

        More than two (a synthetic one joins them in GAN + SSL): the mean over pairs.
        """
        losses = [
            barlow_twins(z1_nD, z2_nD, lambd=self.config.lambd, group=self.process_group)
            for z1_nD, z2_nD in itertools.combinations(z.online, 2)
        ]
        return LossTerms(total=self.config.loss_scale * torch.stack(losses).mean())
