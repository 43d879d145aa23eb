"""NNCLR (Dwibedi et al. 2021, arXiv 2104.14548): the positive is a neighbour in a queue.

The nearest of the past projections stands for the first view; the prediction of the second view is
its positive and those of the batch of all ranks are the candidates, as in the paper's pseudo-code
(its equation 3 writes z where the code has predictions). `--method nnclr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.losses import info_nce
from ssgear.losses.pairs import mean_over_pairs
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
from ssgear.models.queue import Queue, check_queue_length

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores
    "nnclr-quick": {
        "extends": "quick",
        "optim.epochs": 34,
        "method.queue_length": 1024,
        "method.projector_dims": [256, 64],
        "method.predictor_dim": 256,
    },
    # solo-learn's recipe
    "nnclr-cifar10": {
        "extends": "cifar10",
        "data.augmentation": "byol-cifar",
        "optim.lr": 0.4,
        "optim.weight_decay": 1e-5,
        "method.temperature": 0.2,
        "method.queue_length": 65536,
    },
    # the paper's: 75.4 % after 1000 epochs
    "nnclr-imagenet": {
        "extends": "imagenet",
        "checkpoint.every": 1000,
    },
    "nnclr-tiny": {
        "extends": "nnclr-quick",
        "optim.batch_size": 16,
        "method.queue_length": 32,
        "method.projector_dims": [16, 8],
        "method.predictor_dim": 16,
    },
}


class NNCLR(Method):
    """A view's nearest past neighbour attracts the other view and repels the rest of the batch."""

    card = Card(
        title="NNCLR",
        collapse_hint="NNCLR's usual cause is neighbours that are all alike: try a longer "
        "--method.queue-length, a lower --optim.lr or a longer --optim.warmup-epochs",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of NNCLR."""

        temperature: float = 0.1
        """Temperature tau of InfoNCE, > 0."""
        queue_length: int = 98304
        """Past projections to find neighbours among, a multiple of --optim.batch-size."""
        projector_dims: tuple[int, ...] = (2048, 2048, 256)
        """Widths of the projector's layers, a norm after each; the last is the loss's width D."""
        predictor_dim: int = 4096
        """Hidden width of the predictor."""

        def __post_init__(self) -> None:
            """Refuse what defines no loss."""
            check_positive(temperature=self.temperature)
            check_widths(
                projector_dims=self.projector_dims,
                predictor_dim=self.predictor_dim,
                queue_length=self.queue_length,
            )

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build the heads on top of `encoder`, and the queue."""
        super().__init__(config, encoder)
        dims = config.projector_dims
        self.projector = head("projector", encoder, dims, last_norm=True)
        self.predictor = head("predictor", encoder, (config.predictor_dim, dims[-1]), dims[-1])
        self.queue = Queue(config.queue_length, dims[-1], seed_path="queue")
        self.groups, self.phases = one_phase(
            {"encoder": encoder, "projector": self.projector, "predictor": self.predictor}
        )

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run whose batches must fill the queue."""
        check_queue_length(config.queue_length, facts.batch_size)
        return super().build(config, encoder, facts)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return a prediction [n, D] of each view, and a projection [n, D] of each."""
        projections = [self.projector(self.encoder(view)) for view in batch.views]
        targets = tuple(z_nD.detach() for z_nD in projections)
        return Embeddings(tuple(map(self.predictor, projections)), targets)

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return InfoNCE of neighbours and the other view's predictions; carry the first view."""
        units = [F.normalize(z_nD.float()) for z_nD in z.targets]
        tau, group = self.config.temperature, self.process_group
        total = mean_over_pairs(
            lambda near, p: info_nce(near, p, temperature=tau, group=group),
            [self.queue.nearest(unit_nD) for unit_nD in units],
            z.online,
        )
        return LossTerms(total=total, carry={"projections": units[0]})

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Queue the first view's projections of all ranks."""
        self.queue.push(carry["projections"], self.process_group)
