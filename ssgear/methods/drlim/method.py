"""DrLIM (Hadsell, Chopra and LeCun 2006): a map of images that keeps neighbours together.

`--method drlim`. Every image is shown at five horizontal shifts. Neighbours are pulled together,
others pushed apart up to a margin; who is a neighbour decides what the map shows. By plain
Euclidean distance (`--method.graph plain`) images of one shift lie together, in five clusters. With
the knowledge that a shift changes nothing (`shift`) an image and its neighbours are joined at all
shifts, and one manifold is left. Of `--data.augmentation` nothing is used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.loaders.batch import Batch
from ssgear.errors import require
from ssgear.kernels.checks import TINY
from ssgear.losses import contrastive_margin
from ssgear.methods.base import Card, Embeddings, LossTerms, Method, Needs, Phase, one_phase
from ssgear.methods.drlim.figures import FIGURES, PROTOCOL, draw_maps
from ssgear.methods.drlim.pretext import ShiftedPairs

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores: embedded digits, neighbours by plain distance
    "drlim-quick": {
        "data.source": "digits",
        "data.size": 32,
        "data.augmentation": "none",
        "method.graph": "plain",
        "model.name": "drlim",
        "optim.name": "adamw",
        "optim.lr": 2e-3,
        "optim.weight_decay": 0.0,
        "optim.batch_size": 32,
        "optim.epochs": 30,
        "optim.warmup_epochs": 1.0,
        "log.every": 40,
        "eval.every": 10,
    },
    # the same with the knowledge that a shift changes nothing
    "drlim-shift-quick": {
        "extends": "drlim-quick",
        "method.graph": "shift",
    },
    "drlim-tiny": {"extends": "drlim-quick", "method.max_images": 20},
}


class DrLIM(Method):
    """Neighbours attract each other, others repel each other within a margin."""

    card = Card(
        title="DrLIM",
        aim="Training pulls the first two of a row together and pushes the third away from the "
        "first.",
        final=(PROTOCOL.name,),
        figures=FIGURES,
        protocols=(PROTOCOL,),
        maps=draw_maps,
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        """Settings of DrLIM."""

        graph: Literal["plain", "shift"] = "plain"
        """plain: neighbours among all images; shift: among unmoved ones, joined at all shifts."""
        neighbours: int = 5
        """Nearest images that each is joined to."""
        digits: tuple[int, ...] = (4, 9)
        """Classes that are shown, by number, as in the paper; all of them: 0 1 2 3 4 5 6 7 8 9."""
        max_images: int = 3000
        """Images before shifting, evenly spread where there are more; the paper's 3,000."""
        margin: float = 1.0
        """Distance up to which images that are no neighbours are pushed apart."""

        def __post_init__(self) -> None:
            """Refuse what leaves no pairs."""
            require(self.neighbours >= 1, "--method.neighbours", self.neighbours, "use at least 1")
            most = "use at least 2"
            require(self.max_images >= 2, "--method.max-images", self.max_images, most)
            apart = TINY <= self.margin < 1e6
            require(apart, "--method.margin", self.margin, "use a value above 0")
            named = bool(self.digits) and min(self.digits) >= 0
            require(named, "--method.digits", self.digits, "name classes by number, as in 4 9")

    config: Config
    pretext: ShiftedPairs

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Take the encoder as it is: its features are the map."""
        super().__init__(config, encoder)
        # a map by plain distance is to tell shifts, one that knows them classes whatever the shift
        judged_by = "shift_knn" if config.graph == "plain" else "moved_label_knn"
        self.card = dataclasses.replace(self.card, judged_by=judged_by)
        self.groups, self.phases = one_phase({"encoder": encoder})

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Return that pairs are fetched as images."""
        return Needs(images=True)

    @classmethod
    def build_pretext(cls, config: Config) -> ShiftedPairs:
        """Return what moves the images and pairs them."""
        return ShiftedPairs(
            kind=config.graph,
            neighbours=config.neighbours,
            digits=config.digits,
            max_images=config.max_images,
        )

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return one view, the image in [-1, 1] as its partners are."""
        return (AugmentSpec(mean=(0.5,) * 3, std=(0.5,) * 3),)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return the points of what was seen, each [n, D]."""
        images = self.pretext.seen(batch)
        points: Tensor = self.encoder(torch.cat(images))
        return Embeddings(points.chunk(len(images)))

    def health_embeddings(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the views' points from their middle, as health looks at directions."""
        points = [self.encoder(view) for view in batch.views]
        return tuple(view_n2 - points[0].mean(0) for view_n2 in points)

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        """Return the contrastive loss of both pairs of every image."""
        anchor, near, far = z.online
        pair = torch.arange(2, device=anchor.device).repeat_interleave(len(anchor))
        loss = contrastive_margin(
            torch.cat((anchor, anchor)), torch.cat((near, far)), pair, margin=self.config.margin
        )
        apart = [(anchor - other).detach().float().norm(dim=1).mean() for other in (near, far)]
        return LossTerms(
            total=loss, parts={"distance_of_neighbours": apart[0], "distance_of_others": apart[1]}
        )
