"""SimCLR (Chen et al. 2020, arXiv 2002.05709).

Two views or more, one projector, NT-Xent over the global batch. `--method simclr`. The loss is
docs/math.md 1 with the batch of all ranks as negatives; the temperature is a constant, or a trained
scalar that starts there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssgear.data.augment.spec import AugmentSpec, spread
from ssgear.data.loaders.batch import Batch
from ssgear.losses import nt_xent
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Phase, one_phase
from ssgear.models.heads import LearnedTemperature, check_positive, check_widths
from ssgear.models.projector import head

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    "simclr-cifar10": {
        "extends": "cifar10",
        "optim.lr": 0.4,
        "method.temperature": 0.2,
        "method.projector_dims": [2048, 256],
    },
    # section 2.2 and appendix B: LARS at 0.3 per 256 images, all but norms and biases decayed;
    # batch 4096 as a whole, --optim.micro-batch where a GPU cannot hold it
    "simclr-imagenet": {
        "extends": "imagenet",
        "data.size": 224,
        "method.temperature": 0.1,
        "method.projector_dims": [2048, 128],
        "engine.precision": "bf16",
    },
    "simclr-tiny": {"extends": "quick", "method.projector_dims": [16, 8]},
}


class SimCLR(Method):
    """Two views of each image attract each other and repel all others of the batch."""

    card = Card(title="SimCLR")

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of SimCLR."""

        temperature: float = 0.2
        """NT-Xent temperature tau, > 0."""
        learned_temperature: bool = False
        """Train the temperature, starting from --method.temperature."""
        projector_dims: tuple[int, ...] = (2048, 256)
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
        modules: dict[str, nn.Module] = {"encoder": encoder, "projector": self.projector}
        if config.learned_temperature:
            self.temperature = LearnedTemperature(config.temperature)
            modules["temperature"] = self.temperature
        self.groups, self.phases = one_phase(modules)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return two views, or as many as the set has.

        Multi-crop serves SimCLR too (Caron et al. 2020, arXiv 2006.09882, figure 3).
        """
        return spread(named, max(2, len(named)))

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return one projection [n, D] per view."""
        return Embeddings(tuple(self.projector(self.encoder(view)) for view in batch.views))

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return NT-Xent of the stacked views, with the rows of all ranks as negatives.

        All views of a row are each other's positives.
        """
        z_MD = torch.cat(z.online)  # M = V * n, views stacked
        count = len(z.online)
        ids = None if count == 2 else batch.position.repeat(count)
        tau = self.temperature() if self.config.learned_temperature else self.config.temperature
        loss = nt_xent(z_MD, temperature=tau, ids=ids, group=self.process_group)
        parts = {"temperature": tau.detach()} if isinstance(tau, Tensor) else {}
        return LossTerms(total=loss, parts=parts)
