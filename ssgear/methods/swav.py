"""SwAV (Caron et al. 2020, arXiv 2006.09882): predict a view's cluster from the other views.

`--method swav`. Embeddings are compared with trained prototypes; Sinkhorn turns the scores of the
first views over the batch of all ranks (and a queue of past embeddings) into codes, and every other
view predicts them (`ssgear.losses.sinkhorn`, `swav`). `--data.augmentation swav-multicrop` adds six
small views that predict only.

The authors bring prototypes back to length 1 after each step; here they are brought to it in the
forward pass, so that weights change by their optimiser alone. Both score the same directions; a
prototype's length, which its steps let grow a little, only shortens its later turns (LARS, whose
steps are as long as the weights, takes the same), and it does not decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError, refuse_idle, require
from ssgear.losses import sinkhorn, swav
from ssgear.methods.base import (
    Card,
    Embeddings,
    Facts,
    LossTerms,
    Method,
    Phase,
    one_phase,
)
from ssgear.models.heads import check_positive, check_widths, seeded
from ssgear.models.projector import head
from ssgear.models.queue import Queue, check_queue_length

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # solo-learn's recipe, two crops: 89.17 % after 1000 epochs; its colours are twice as strong
    "swav-cifar10": {
        "extends": "cifar10",
        "optim.lr": 0.6,
        "optim.weight_decay": 1e-6,
        "method.queue_length": 3840,
        "method.queue_from_epoch": 50,
        "method.freeze_prototypes_epochs": 2,
    },
    # appendix A: batch 4096 without a queue, prototypes frozen for the first epoch
    "swav-imagenet": {
        "extends": "imagenet",
        "data.size": 224,
        "data.augmentation": "swav-multicrop",
        "optim.epochs": 800,
        "engine.precision": "bf16",
    },
    # minutes on two cores
    "swav-quick": {
        "extends": "quick",
        "method.projector_dims": [256, 64],
        "method.prototypes": 128,
        "method.queue_length": 256,
        "method.queue_from_epoch": 4,
    },
    "swav-tiny": {
        "extends": "swav-quick",
        "optim.batch_size": 16,
        "method.projector_dims": [16, 8],
        "method.prototypes": 9,
        "method.queue_length": 32,
        "method.queue_from_epoch": 0,
    },
}


class SwAV(Method):
    """Views of an image belong to the same clusters, all of which are used alike."""

    card = Card(
        title="SwAV",
        collapse_hint="SwAV collapses where codes are soft or the encoder runs ahead of its "
        "prototypes: try a lower --method.epsilon, more --method.sinkhorn-iterations, a lower "
        "--optim.lr",
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of SwAV."""

        prototypes: int = 3000
        """Number of prototypes K."""
        projector_dims: tuple[int, ...] = (2048, 128)
        """Widths of the projector's layers; the last is that of the prototypes."""
        temperature: float = 0.1
        """Temperature tau of the prediction, > 0."""
        epsilon: float = 0.05
        """Weight of the codes' entropy, > 0; smaller makes them harder."""
        sinkhorn_iterations: int = 3
        """How often rows and prototypes are brought to equal shares."""
        code_views: int = 2
        """Views, the first ones, that have codes; all others predict only."""
        freeze_prototypes_epochs: int = 1
        """First epochs in which prototypes stay as they are."""
        queue_length: int = 0
        """Past embeddings that codes are made with too, for small batches; 0: none."""
        queue_from_epoch: int = 15
        """Epoch from which the queue is filled; it takes part once it is full."""

        def __post_init__(self) -> None:
            """Refuse what defines no codes."""
            at_least = {
                "prototypes": 2, "sinkhorn_iterations": 1, "freeze_prototypes_epochs": 0,
                "queue_length": 0, "queue_from_epoch": 0,
            }  # fmt: skip
            for name, least in at_least.items():
                _require(getattr(self, name) >= least, self, name, f"use {least} or more")
            few = "use 1000 or fewer: codes stand still after some dozens"
            _require(self.sinkhorn_iterations <= 1000, self, "sinkhorn_iterations", few)
            check_positive(temperature=self.temperature, epsilon=self.epsilon)
            right = "a code is predicted from another crop; use 2 or more"
            _require(self.code_views >= 2, self, "code_views", right)
            check_widths(projector_dims=self.projector_dims)
            queue = "a --method.queue-length above 0"
            refuse_idle(self, {queue: (self.queue_length > 0, ("queue_from_epoch",))})

    config: Config

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Build projector, prototypes and queues on top of `encoder`."""
        super().__init__(config, encoder)
        width = config.projector_dims[-1]
        self.projector = head("projector", encoder, config.projector_dims)
        with seeded(torch.initial_seed(), "prototypes"):
            self.prototypes = Prototypes(config.prototypes, width)
        lengths = [config.queue_length] * (config.code_views if config.queue_length else 0)
        self.queues = nn.ModuleList(
            Queue(length, width, seed_path=f"queue {view}") for view, length in enumerate(lengths)
        )
        self._full = False
        self.groups, self.phases = one_phase(
            {"encoder": encoder, "projector": self.projector, "prototypes": self.prototypes}
        )

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method; refuse queues and prototypes that its batches cannot fill."""
        if config.queue_length:
            check_queue_length(config.queue_length, facts.batch_size)
            epochs = facts.epochs - config.queue_from_epoch
            _require(
                epochs * (facts.num_images - facts.num_images % facts.batch_size)
                > config.queue_length,
                config,
                "queue_from_epoch",
                f"the run ends after {facts.epochs} and the queue (--method.queue-length "
                f"{config.queue_length}) would never be filled; use fewer, or a queue of 0",
            )
        _require(
            config.freeze_prototypes_epochs < facts.epochs,
            config,
            "freeze_prototypes_epochs",
            f"the run ends after {facts.epochs} (--optim.epochs) and prototypes would never be "
            "trained; use fewer",
        )
        rows = facts.batch_size + config.queue_length
        if config.prototypes > rows:
            raise ConfigError(
                f"--method.prototypes: {config.prototypes} cannot be filled equally by the {rows} "
                f"images of a batch (--optim.batch-size {facts.batch_size}) and its queue "
                f"(--method.queue-length {config.queue_length}); use {rows} or fewer, or a longer "
                "queue"
            )
        return super().build(config, encoder, facts)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return as many views as have codes, or as many as the set has; whole crops come first."""
        count = self.config.code_views
        specs = spread(named, max(count, len(named)))
        large = next((v for v, spec in enumerate(specs) if spec.size_share < 1), len(specs))
        if large < count:
            raise ConfigError(
                f"--method.code-views: {count} views have codes, and the set of "
                f"--data.augmentation begins with {large} of full size; use {large} or fewer"
            )
        return specs

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return one projection [n, D] per view; views of one size go through as one batch."""
        projections: dict[int, Tensor] = {}
        for side in dict.fromkeys(view.shape[-1] for view in batch.views):
            places = [v for v, view in enumerate(batch.views) if view.shape[-1] == side]
            z_MD = self.projector(self.encoder(torch.cat([batch.views[v] for v in places])))
            projections |= dict(zip(places, z_MD.chunk(len(places)), strict=True))
        return Embeddings(tuple(projections[v] for v in range(len(batch.views))))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the loss of swapped prediction; carry what enters the queues."""
        config = self.config
        live = batch.epoch >= config.freeze_prototypes_epochs
        with torch.autocast(z.online[0].device.type, enabled=False):
            directions_KD = self.prototypes(live)
            units = [F.normalize(z_nD.float()) for z_nD in z.online]
            scores = [unit_nD @ directions_KD.T for unit_nD in units]
            coded = [s_nK.detach() for s_nK in scores[: config.code_views]]
            queued = bool(self.queues) and batch.epoch >= config.queue_from_epoch
            if queued and self._queues_full():
                fixed_DK = directions_KD.detach().T
                past = [self._share_of(view).float() @ fixed_DK for view in range(len(coded))]
                coded = [torch.cat(pair) for pair in zip(past, coded, strict=True)]
        codes = [self._codes(s_mK)[-len(units[0]) :] for s_mK in coded]
        terms = LossTerms(total=swav(scores, codes, temperature=config.temperature))
        if queued:
            for view in range(config.code_views):
                terms.carry[f"queue_{view}"] = units[view].detach()
        return terms

    def _codes(self, scores_mK: Tensor) -> Tensor:
        """Return the codes [m, K] of a batch, and of the queue before it."""
        return sinkhorn(
            scores_mK,
            epsilon=self.config.epsilon,
            iterations=self.config.sinkhorn_iterations,
            group=self.process_group,
        )

    def _share_of(self, view: int) -> Tensor:
        """Return this rank's part of a queue, so that each row of it counts once over ranks."""
        rows_QD = self._queue(view).rows
        if self.process_group is None:
            return rows_QD
        return rows_QD[dist.get_rank(self.process_group) :: dist.get_world_size(self.process_group)]

    def _queues_full(self) -> bool:
        """Whether past embeddings fill the queues: read from the device until they do."""
        if not self._full:
            self._full = int(self._queue(0).filled) == self.config.queue_length
        return self._full

    def _queue(self, view: int) -> Queue:
        return cast(Queue, self.queues[view])

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Let the step's embeddings enter the queues."""
        for view in range(len(self.queues)):
            if f"queue_{view}" in carry:
                self._queue(view).push(carry[f"queue_{view}"], self.process_group)


class Prototypes(nn.Module):
    """K directions that embeddings are compared with."""

    def __init__(self, count: int, width: int) -> None:
        """Draw unit rows [count, width] from torch's generator."""
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, width)))

    def no_weight_decay(self) -> set[str]:
        """Name what does not decay: only the direction of a prototype matters."""
        return {"weight"}

    def forward(self, live: bool) -> Tensor:
        """Return them as unit rows [K, D] in float32; where not `live`, their gradient is zeros.

        Of zeros rather than none: an optimiser then counts its steps alike in one process and in
        several, where missing gradients are averaged as zeros.
        """
        weight_KD = self.weight.float()
        if not live:
            weight_KD = weight_KD.detach() + 0.0 * (weight_KD - weight_KD.detach())
        return F.normalize(weight_KD)


def _require(condition: bool, config: SwAV.Config, name: str, right: str) -> None:
    require(condition, f"--method.{name.replace('_', '-')}", getattr(config, name), right)
