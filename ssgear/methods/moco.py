"""MoCo: a momentum encoder makes the keys (He et al. 2020, arXiv 1911.05722; v2, 2003.04297).

`--method.version v2` compares with a queue of keys from past batches; with both views as queries
(`symmetric`) it is what solo-learn calls v2+. `v3` (Chen et al. 2021, 2104.02057) has no queue but
a predictor, and compares with the keys of the batch of all ranks. The paper shuffles batches
between ranks against a leak through batch norm; here GPUs synchronise its statistics instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.errors import refuse_idle
from ssgear.losses import info_nce
from ssgear.losses.pairs import all_pairs, mean_over_pairs
from ssgear.methods.base import (
    Card,
    Embeddings,
    Facts,
    LossTerms,
    Method,
    Needs,
    Phase,
    one_phase,
)
from ssgear.models.heads import check_positive, check_widths
from ssgear.models.momentum import MomentumCopy, check_momentum
from ssgear.models.projector import head
from ssgear.models.queue import Queue, check_queue_length

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores
    "moco-quick": {
        "extends": "quick",
        "optim.epochs": 24,
        "method.temperature": 0.1,
        "method.queue_length": 1024,
        "method.projector_dims": [256, 64],
    },
    # solo-learn's recipe of MoCo v2+: 92.94 % after 1000 epochs
    "moco-cifar10": {
        "extends": "cifar10",
        "optim.name": "sgd",
        "optim.lr": 0.3,
        "method.final_momentum": 0.999,
        "method.queue_length": 32768,
        "method.projector_dims": [2048, 256],
    },
    # v2's own: 71.1 % after 800 epochs
    "moco-imagenet": {
        "extends": "imagenet-sgd",
        "optim.lr": 0.03,
        "optim.epochs": 800,
        "method.symmetric": False,
        "method.momentum": 0.999,
        "method.final_momentum": 0.999,
    },
    # 74.6 % after 1000 epochs
    "moco-v3-imagenet": {
        "extends": "imagenet",
        "data.augmentation": "byol",
        "data.min_scale": 0.2,
        "optim.weight_decay": 1.5e-6,
        "method.version": "v3",
        "method.temperature": 1.0,
        "method.momentum": 0.996,
        "method.projector_dims": [4096, 256],
        "checkpoint.every": 1000,
    },
    "moco-tiny": {
        "extends": "moco-quick",
        "optim.batch_size": 16,
        "method.queue_length": 32,
        "method.projector_dims": [16, 8],
    },
}


class MoCo(Method):
    """Queries are told which key was made of the same image by an encoder that follows."""

    card = Card(
        title="MoCo",
        collapse_hint="MoCo's usual cause is keys that change too fast: try a higher "
        "--method.momentum, a lower --optim.lr or a longer --optim.warmup-epochs",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of MoCo."""

        version: Literal["v2", "v3"] = "v2"
        """v2: a queue of keys; v3: the keys of the batch, and a predictor."""
        temperature: float = 0.2
        """Temperature tau of InfoNCE, > 0."""
        momentum: float = 0.99
        """Share of the momentum encoder that the first step keeps, in [0, 1]."""
        final_momentum: float = 1.0
        """The same of the last step; between them half a cosine."""
        queue_length: int = 65536
        """v2: keys of past batches to compare with, a multiple of --optim.batch-size."""
        symmetric: bool = True
        """v2: each view is query and key once; else the first is query, the second key."""
        projector_dims: tuple[int, ...] = (2048, 128)
        """Widths of the projector's layers, in v2 without norms; the last is the loss's width D."""
        predictor_dim: int = 4096
        """v3: hidden width of the predictor."""
        predictor_norm: bool = False
        """v3: a norm after the predictor too, as the authors' code has it for ViTs, not ResNets."""

        def __post_init__(self) -> None:
            """Refuse what defines no loss."""
            check_positive(temperature=self.temperature)
            check_momentum(self.momentum, self.final_momentum)
            check_widths(
                projector_dims=self.projector_dims,
                predictor_dim=self.predictor_dim,
                queue_length=self.queue_length,
            )
            v3 = self.version == "v3"
            refuse_idle(self, {
                "--method.version v2": (not v3, ("queue_length", "symmetric")),
                "--method.version v3": (v3, ("predictor_dim", "predictor_norm")),
            })  # fmt: skip

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build heads, queue and momentum encoder around `encoder`."""
        super().__init__(config, encoder)
        v3, dims = config.version == "v3", config.projector_dims
        # without scale and shift after the last norm, as the authors' code has it, and SimSiam's
        self.projector = head(
            "projector", encoder, dims, normed=v3, last_norm=v3, last_affine=False
        )
        modules: dict[str, nn.Module] = {"encoder": encoder, "projector": self.projector}
        self.predictor: nn.Module = nn.Identity()
        self.queue: Queue | None = None
        if v3:
            self.predictor = modules["predictor"] = head(
                "predictor",
                encoder,
                (config.predictor_dim, dims[-1]),
                dims[-1],
                last_norm=config.predictor_norm,
                last_affine=False,
            )
        else:
            self.queue = Queue(config.queue_length, dims[-1], seed_path="queue")
        self.momentum = MomentumCopy(
            nn.Sequential(encoder, self.projector),
            base=config.momentum,
            final=config.final_momentum,
        )
        self.groups, self.phases = one_phase(modules)

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Return that the momentum encoder follows whole weights."""
        return Needs(whole_weights="momentum encoder")

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run whose batches must fill the queue."""
        if config.version == "v2":
            check_queue_length(config.queue_length, facts.batch_size)
        return super().build(config, encoder, facts)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return queries, and keys, [n, D] of each view that is one."""
        queries = batch.views if self.config.symmetric else batch.views[:1]
        keys = batch.views if self.config.symmetric else batch.views[1:]
        online = (self.predictor(self.projector(self.encoder(view))) for view in queries)
        return Embeddings(tuple(online), self.momentum(*keys))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return InfoNCE of queries and the keys of other views; carry the second view's keys."""
        tau = self.config.temperature
        if self.queue is None:
            group = self.process_group
            mean = mean_over_pairs(
                lambda q, k: info_nce(q, k, temperature=tau, group=group), z.online, z.targets
            )
            # v3 adds both directions, each times 2 tau
            return LossTerms(total=4 * tau * mean)
        queue_KD = self.queue.rows
        if self.config.symmetric:
            # rows are told apart from the queue alone, so both directions are one loss
            total = info_nce(*all_pairs(z.online, z.targets), queue_KD, temperature=tau)
            pushed = z.targets[1]
        else:
            (query,) = z.online
            terms = [info_nce(query, key, queue_KD, temperature=tau) for key in z.targets]
            total, pushed = torch.stack(terms).mean(), z.targets[0]
        return LossTerms(total=total, carry={"keys": F.normalize(pushed.float())})

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Queue the keys of all ranks, and let the momentum encoder follow."""
        if self.queue is not None:
            self.queue.push(carry["keys"], self.process_group)
        self.momentum.update(progress)
