"""SimSiam (Chen & He 2020, arXiv 2011.10566): predict the other view's projection, taken as it is.

BYOL without the momentum encoder: the gradient stops at the target. `--method simsiam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssgear.data.loaders.batch import Batch
from ssgear.losses import negative_cosine
from ssgear.losses.pairs import mean_over_pairs
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Phase, one_phase
from ssgear.models.heads import check_widths
from ssgear.models.projector import head

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores
    "simsiam-quick": {
        "extends": "quick",
        "optim.lr": 2e-3,
        "method.projector_dims": [256, 256],
        "method.predictor_dim": 64,
        "method.constant_predictor_lr": False,
    },
    # solo-learn's recipe: 90.51 % after 1000 epochs
    "simsiam-cifar10": {
        "extends": "cifar10",
        "optim.name": "sgd",
        "optim.lr": 0.5,
        "optim.weight_decay": 1e-5,
    },
    # the paper's: 68.1 % after 100 epochs
    "simsiam-imagenet": {
        "extends": "imagenet-sgd",
        "optim.lr": 0.05,
        "optim.epochs": 100,
        "eval.every": 10,
    },
    "simsiam-tiny": {
        "extends": "simsiam-quick",
        "method.projector_dims": [16, 8],
        "method.predictor_dim": 4,
    },
}


class SimSiam(Method):
    """Each view's prediction is drawn to the other view's projection, which gets no gradient."""

    card = Card(
        title="SimSiam",
        collapse_hint="SimSiam's usual cause is a predictor that lags behind: keep "
        "--method.constant-predictor-lr, try a lower --optim.lr, or a batch norm in the projector "
        "(--model.norm batch)",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of SimSiam."""

        projector_dims: tuple[int, ...] = (2048, 2048, 2048)
        """Widths of the projector's layers, a norm after each; the last is the loss's width D."""
        predictor_dim: int = 512
        """Hidden width of the predictor, a bottleneck."""
        constant_predictor_lr: bool = True
        """Keep the predictor at --optim.lr from the first step to the last."""

        def __post_init__(self) -> None:
            """Refuse what defines no loss."""
            check_widths(projector_dims=self.projector_dims, predictor_dim=self.predictor_dim)

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build the heads on top of `encoder`."""
        super().__init__(config, encoder)
        dims = config.projector_dims
        # the last norm has no scale and no shift in the authors' code
        self.projector = head("projector", encoder, dims, last_norm=True, last_affine=False)
        self.predictor = head("predictor", encoder, (config.predictor_dim, dims[-1]), dims[-1])
        self.groups, self.phases = one_phase(
            {"encoder": encoder, "projector": self.projector, "predictor": self.predictor},
            constant=("predictor",) if config.constant_predictor_lr else (),
        )

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return a prediction [n, D] of each view, and a projection [n, D] of each."""
        projections = [self.projector(self.encoder(view)) for view in batch.views]
        targets = tuple(z_nD.detach() for z_nD in projections)
        return Embeddings(tuple(map(self.predictor, projections)), targets)

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the mean of both directions, from -1 (views agree) to 1."""
        return LossTerms(total=mean_over_pairs(negative_cosine, z.online, z.targets))
