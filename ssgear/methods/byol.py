"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict a momentum encoder's view of the image.

No negatives: the predictor and the slowly moving targets keep features apart. `--method byol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ssgear.data.loaders.batch import Batch
from ssgear.losses import byol
from ssgear.losses.pairs import mean_over_pairs
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Needs, Phase, one_phase
from ssgear.models.heads import check_widths
from ssgear.models.momentum import MomentumCopy, check_momentum
from ssgear.models.projector import head

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores
    "byol-quick": {
        "extends": "quick",
        "optim.epochs": 27,
        "method.momentum": 0.99,
        "method.projector_dims": [256, 64],
        "method.predictor_dim": 256,
    },
    # solo-learn's recipe: 92.58 % after 1000 epochs
    "byol-cifar10": {
        "extends": "cifar10",
        "data.augmentation": "byol-cifar",
        "optim.lr": 1.0,
        "optim.weight_decay": 1e-5,
        "method.momentum": 0.99,
    },
    # the paper's: 74.3 % after 1000 epochs
    "byol-imagenet": {
        "extends": "imagenet",
        "data.augmentation": "byol",
        "optim.lr": 3.2,
        "optim.weight_decay": 1.5e-6,
        "checkpoint.every": 1000,
    },
    "byol-tiny": {
        "extends": "byol-quick",
        "method.projector_dims": [16, 8],
        "method.predictor_dim": 16,
    },
}


class BYOL(Method):
    """Each view's prediction is drawn to the momentum encoder's projection of the other."""

    card = Card(
        title="BYOL",
        collapse_hint="BYOL's usual cause is targets that follow too fast: try a higher "
        "--method.momentum, a lower --optim.lr or a longer --optim.warmup-epochs",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of BYOL."""

        momentum: float = 0.996
        """Share of the momentum encoder that the first step keeps, in [0, 1]."""
        final_momentum: float = 1.0
        """The same of the last step; between them half a cosine."""
        projector_dims: tuple[int, ...] = (4096, 256)
        """Widths of the projector's layers; the last is the loss's width D."""
        predictor_dim: int = 4096
        """Hidden width of the predictor."""

        def __post_init__(self) -> None:
            """Refuse what defines no loss."""
            check_momentum(self.momentum, self.final_momentum)
            check_widths(projector_dims=self.projector_dims, predictor_dim=self.predictor_dim)

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build heads and momentum encoder around `encoder`."""
        super().__init__(config, encoder)
        dims = config.projector_dims
        self.projector = head("projector", encoder, dims)
        self.predictor = head("predictor", encoder, (config.predictor_dim, dims[-1]), dims[-1])
        self.momentum = MomentumCopy(
            nn.Sequential(encoder, self.projector),
            base=config.momentum,
            final=config.final_momentum,
        )
        self.groups, self.phases = one_phase(
            {"encoder": encoder, "projector": self.projector, "predictor": self.predictor}
        )

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Return that the momentum encoder follows whole weights."""
        return Needs(whole_weights="momentum encoder")

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return a prediction [n, D] of each view, and a target [n, D] of each."""
        predictions = (self.predictor(self.projector(self.encoder(view))) for view in batch.views)
        return Embeddings(tuple(predictions), self.momentum(*batch.views))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the sum of both directions; with more views, as many times their mean."""
        return LossTerms(total=2 * mean_over_pairs(byol, z.online, z.targets))

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Let the momentum encoder follow."""
        self.momentum.update(progress)
