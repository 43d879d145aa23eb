"""DrLIM (Hadsell, Chopra and LeCun 2006): a map of images that keeps neighbours together.

`--method drlim`. Every image is shown at five horizontal shifts. Neighbours are pulled together,
others pushed apart up to a margin; who is a neighbour decides what the map shows. By plain
Euclidean distance (`--method.graph plain`) images of one shift lie together, in five clusters. With
the knowledge that a shift changes nothing (`shift`) an image and its neighbours are joined at all
shifts, and one manifold is left. Of `--data.augmentation` nothing is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources.digits import SHIFTS, shifted
from ssgear.data.sources.loading import load_images
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Source
from ssgear.errors import ArgumentError, ConfigError, DataError, require
from ssgear.kernels.checks import TINY
from ssgear.losses import contrastive_margin
from ssgear.methods.base import Group, LossTerms, Method, Phase
from ssgear.methods.drlim.pairs import PairGraph, nearest_rows

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
}


class DrLIM(Method):
    """Neighbours attract each other, others repel each other within a margin."""

    smallest = ("--method.max-images", "20", "--optim.name", "sgd")
    final = ("shifts",)
    aim = "Training pulls the first two of a row together and pushes the third away from the first."
    reads_images = True
    needs_images = True

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

    def __init__(self, config: Config, encoder: Encoder) -> None:
        """Take the encoder as it is: its features are the map."""
        super().__init__(config, encoder)
        self.graph: PairGraph | None = None
        # a map by plain distance is to tell shifts, one that knows them classes whatever the shift
        self.judged_by = "shift_knn" if config.graph == "plain" else "moved_label_knn"
        self.groups = (Group("encoder", {"encoder": encoder}),)
        self.phases = (Phase(name="encoder", group="encoder"),)

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return one view, the image in [-1, 1] as its partners are."""
        return (AugmentSpec(mean=(0.5,) * 3, std=(0.5,) * 3),)

    @classmethod
    def select(cls, config: DrLIM.Config, source: Source) -> Source:
        """Return the images of the classes that are shown, which are then all that there are."""
        if source.labels is None:
            raise DataError(
                "--method.digits: chooses images by their labels, and these have none; use "
                "--data.source digits or mnist, class folders, or --data.labels"
            )
        shown = torch.tensor(sorted(set(config.digits)))
        none = shown[~torch.isin(shown, source.labels)].tolist()
        if none:
            raise ConfigError(
                f"--method.digits: no image is of class {' or '.join(map(str, none))}; their "
                f"numbers go from {source.labels.min()} to {source.labels.max()}"
            )
        chosen = torch.isin(source.labels, shown).nonzero()[:, 0]
        part = source.subset(chosen)
        part.labels = torch.searchsorted(shown, source.labels[chosen])
        if source.classes is not None:
            names = dict(enumerate(source.classes))
            part.classes = tuple(names.get(digit, str(digit)) for digit in shown.tolist())
        return part

    def wrap_source(self, source: Source) -> Source:
        """Return every image at all shifts: of image i at shift s, number 5 i + s."""
        count = min(len(source), self.config.max_images)
        if count <= self.config.neighbours:
            raise ConfigError(
                f"--method.neighbours: {self.config.neighbours} of {count} images; use fewer, or "
                "more images"
            )
        rows = torch.linspace(0, len(source) - 1, count).round().long()
        images = load_images(source, rows, self.encoder.size)
        everything = at_all_shifts(images)
        try:
            self.graph = _graph(images, everything, self.config)
        except ArgumentError:
            raise ConfigError(
                f"--method.neighbours: with {self.config.neighbours} an image belongs to all "
                f"{count}; use fewer, or more images"
            ) from None
        assert source.labels is not None
        wrapped = Images(
            reader=ArrayReader(f"{source.name} shifted", everything.numpy()),
            keys=source.classes,
            labels=source.labels[rows].repeat_interleave(len(SHIFTS)),
            side=self.encoder.size,
            notes=(f"{count} images at {len(SHIFTS)} shifts", *source.notes),
        )
        made = Source(source.name, wrapped, mean=source.mean, std=source.std)
        made.bad = source.bad
        return made

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each image, one that belongs to it and one that does not."""
        if batch.fetch is None or self.graph is None:
            return tuple(batch.views)
        near, far = self.graph.draw(batch.index, seed=batch.seed, epoch=batch.epoch)
        return (batch.views[0], batch.fetch(near), batch.fetch(far))

    def embed(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the points of what was seen, each [n, D]."""
        seen = self.seen(batch)
        points: Tensor = self.encoder(torch.cat(seen))
        return points.chunk(len(seen))

    def compared(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return the views' points from their middle, as health looks at directions."""
        points = [self.encoder(view) for view in batch.views]
        return tuple(each - points[0].mean(0) for each in points)

    def loss_of(self, phase: Phase, zs: tuple[Tensor, ...], batch: Batch) -> LossTerms:
        """Return the contrastive loss of both pairs of every image."""
        anchor, near, far = zs
        pair = torch.arange(2, device=anchor.device).repeat_interleave(len(anchor))
        loss = contrastive_margin(
            torch.cat((anchor, anchor)), torch.cat((near, far)), pair, margin=self.config.margin
        )
        apart = [(anchor - other).detach().float().norm(dim=1).mean() for other in (near, far)]
        return LossTerms(
            total=loss, parts={"distance_of_neighbours": apart[0], "distance_of_others": apart[1]}
        )


def at_all_shifts(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] at every shift: [5 N, C, H, W], the shifts of one together."""
    return torch.stack([shifted(images, by) for by in SHIFTS], dim=1).flatten(0, 1)


def _graph(images: Tensor, everything: Tensor, config: DrLIM.Config) -> PairGraph:
    """Join neighbours among images at all shifts."""
    if config.graph == "plain":
        nearest = nearest_rows(everything.flatten(1), config.neighbours)
        return PairGraph.of(nearest, len(everything))
    own = torch.arange(len(images))[:, None]
    alike = torch.cat((own, nearest_rows(images.flatten(1), config.neighbours)), dim=1)
    places = torch.arange(len(SHIFTS))
    joined = (alike[..., None] * len(SHIFTS) + places).flatten(1)
    return PairGraph.of(joined.repeat_interleave(len(SHIFTS), dim=0), len(everything))
