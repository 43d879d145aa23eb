"""A run as its callbacks see it, and the figures that they hand to those after them.

`ssgear.engine.build.prepare` builds a `Run`, `ssgear.engine.trainer.Trainer` trains it. `Results`
is frozen: a callback puts another one in its place (`run.results = replace(run.results, ...)`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ssgear.config.schema import Config
from ssgear.data.loaders.base import Loader, ViewPlan
from ssgear.data.order.stored_views import StoredViews
from ssgear.data.sources import Source
from ssgear.distributed import World
from ssgear.engine.log import Log
from ssgear.engine.meter import Meter
from ssgear.engine.runtime import Runtime
from ssgear.methods.base import Method
from ssgear.models.encoders import Normalized
from ssgear.optim import Ema
from ssgear.storage.atomic import Json


@dataclass(frozen=True, kw_only=True)
class Results:
    """What callbacks have measured of a run."""

    summary: Mapping[str, Json] = field(default_factory=dict)
    """Final figures, as summary.json has them; empty before the end and where none are taken."""
    generator: Mapping[str, Json] = field(default_factory=dict)
    """Figures of the generator and its critic; empty where none is trained."""
    report: Path | None = None
    """The page, once it is written."""

    def with_generator(self, figures: Mapping[str, Json]) -> Results:
        """Return these results with more figures of the generator."""
        return dataclasses.replace(self, generator={**self.generator, **figures})


@dataclass(kw_only=True)
class Run:
    """A run as its callbacks see it."""

    config: Config
    directory: Path
    world: World
    device: torch.device
    method: Method
    source: Source
    """Training images that can be read."""
    test: Source | None
    """Test images that can be read; None where every image is trained on."""
    loader: Loader
    plan: ViewPlan
    runtime: Runtime
    log: Log
    total_steps: int
    original: Source | None = None
    """Training images as they are, where the method trains on a set that it makes of them."""
    synthetic: Source | None = None
    """Synthetic images that can be read; the loader numbers them after `source`."""
    stored: StoredViews | None = None
    """Stored views that can be read; the loader numbers them after both."""
    resumed: bool = False
    step: int = 0
    """Optimiser steps taken."""
    images_seen: int = 0
    averages: dict[str, Ema] = field(default_factory=dict)
    """Moving averages by group."""
    figures: dict[str, float] = field(default_factory=dict)
    """Losses and their parts as they were last logged, means over ranks; the same on every rank."""
    figures_step: int = 0
    """Step of `figures`; 0 before the first."""
    results: Results = Results()
    """What callbacks have measured."""
    meter: Meter = field(init=False)
    """Clocks."""

    def __post_init__(self) -> None:
        """Start the clocks."""
        self.meter = Meter(self.device)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return all images that a step may show: real, synthetic, stored views."""
        stored = None if self.stored is None else self.stored.source
        sources = (self.source, self.synthetic, stored)
        return tuple(source for source in sources if source is not None)

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps of one pass."""
        return self.loader.sampler.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Return the passes over the data so far, with their fraction."""
        return self.step / self.steps_per_epoch

    def inference_encoder(self) -> Normalized:
        """Return the encoder as the export will be: uint8 images in, features out."""
        spec = self.plan.specs[0]
        return Normalized(self.method.encoder, spec.mean, spec.std)

    @contextmanager
    def export_weights(self) -> Iterator[None]:
        """Hold whole weights, averaged ones where an average is kept, inside the block.

        On all ranks, which leave it together: one of them may read for longer than a collective of
        the others would wait.
        """
        with ExitStack() as stack:
            for group in self.runtime.groups:
                stack.enter_context(self.runtime.gathered(group))
            for average in self.averages.values():
                stack.enter_context(average.applied())
            with self.world.unhurried("a reading of the run"):
                yield
