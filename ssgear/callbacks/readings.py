"""Readings while a run trains: kNN where there are labels, and whether features collapse.

Only rank 0 measures, inside `run.export_weights()`, at whose end the others wait for it, however
long it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgear.callbacks.previews import make_views
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.resident import ResidentLoader
from ssgear.data.sources import Source, has_labelled_part, open_probe_source
from ssgear.data.sources.loading import load_readable
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.evaluation.features import extract
from ssgear.evaluation.health import YOUNG_STEPS, health
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.probes.knn import knn_accuracy
from ssgear.methods.base import trains_encoder
from ssgear.storage.atomic import Json

HEALTH_IMAGES = 512


@dataclass
class Splits:
    """Images for readings, loaded once when first asked for.

    Uint8 [N, 3, size, size] and labels.
    """

    run: Run
    limit: int | None
    _loaded: EvalData | None = field(default=None, repr=False)

    def load(self) -> EvalData:
        """Return both splits, each cut to evenly spread `limit` images."""
        if self._loaded is None:
            run = self.run
            train = labelled_source(run)
            if train.labels is None and has_labelled_part(run.source.name):
                train = open_probe_source(run.config.data)
            if run.test is None:
                run.log.note(run.step, "no test images: figures are of the training images")
            test = run.test or train
            train_images, train_labels = self._part(train)
            test_images, test_labels = self._part(test)
            self._loaded = EvalData(
                train_images=train_images,
                train_labels=train_labels,
                test_images=test_images,
                test_labels=test_labels,
                classes=train.classes,
            )
        return self._loaded

    def _pick(self, source: Source) -> Tensor:
        count = len(source) if self.limit is None else min(self.limit, len(source))
        return torch.linspace(0, len(source) - 1, count).round().long()

    def _part(self, source: Source) -> tuple[Tensor, Tensor | None]:
        """Return images and labels of a split, without those that vanished since the run began."""
        loader, size = self.run.loader, self.run.plan.size
        ours, rows = source is self.run.source, self._pick(source)
        if isinstance(loader, ResidentLoader) and ours and loader.images.shape[-1] == size:
            images = loader.images.cpu()[rows]
        else:
            workers = self.run.config.data.workers
            images, rows = load_readable(source, rows, size, workers=workers)
        return images, None if source.labels is None else source.labels[rows]


def labelled_source(run: Run) -> Source:
    """Return the training images themselves, whatever set the method makes of them."""
    return run.source if run.original is None else run.original


class Readings(Callback):
    """Every few epochs: kNN and label-free health, with a warning when features collapse."""

    def __init__(self) -> None:
        """Start without images; they are loaded at the first reading."""
        self.splits: Splits | None = None
        self._last: tuple[int, dict[str, Json]] = (-1, {})

    def on_epoch(self, run: Run) -> None:
        """Take a reading where one is due."""
        every = run.config.eval.every
        epoch = run.step // run.steps_per_epoch
        if every == 0 or epoch % every or not trains_encoder(run.method):
            return
        with run.export_weights():
            if run.world.is_main:
                self.read(run)

    def images(self, run: Run) -> EvalData:
        """Return the images that readings are taken of."""
        if self.splits is None:
            self.splits = Splits(run, run.config.eval.max_images)
        return self.splits.load()

    def read(self, run: Run) -> dict[str, Json]:
        """Measure, log and return the figures; those of this very step are not measured twice."""
        if self._last[0] != run.step:
            self._last = run.step, self._measure(run)
        return self._last[1]

    def _measure(self, run: Run) -> dict[str, Json]:
        data = self.images(run)
        encoder = run.inference_encoder()
        test = extract(encoder, data.test_images[:], device=run.device)
        figures: dict[str, Json] = {"epoch": round(run.epoch, 4)}
        score = ""
        if data.train_labels is not None and data.test_labels is not None:
            train = extract(encoder, data.train_images[:], device=run.device)
            knn = knn_accuracy(train, data.train_labels, test, data.test_labels)
            figures["knn"], score = knn, f"kNN {100 * knn:.1f} %, "
        z1, z2 = embed_two_views(run, data.test_images[:HEALTH_IMAGES])
        state = health(z1, z2, test, young=run.step < YOUNG_STEPS)
        figures |= {
            "alignment": state.alignment,
            "uniformity": state.uniformity,
            "effective_rank": state.effective_rank,
            "collapsed": state.collapsed,
        }
        if state.collapsed:
            figures["collapse"] = f"{state.sign}; {run.method.card.collapse_hint}"
        if not run.log.holds("eval", run.step):
            run.log.write("eval", run.step, figures)
        run.log.say(
            f"epoch {run.epoch:.4g}: {score}effective rank {state.effective_rank:.1f}, alignment "
            f"{state.alignment:.3f}, uniformity {state.uniformity:.3f}"
        )
        if state.collapsed:
            run.log.note(
                run.step,
                f"the features have collapsed ({state.sign}): images are hardly told apart; "
                f"{run.method.card.collapse_hint}",
            )
        return figures


@torch.no_grad()
def embed_two_views(run: Run, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the method compares of two views of some images, in evaluation mode.

    Two of [n, D].
    """
    run.method.eval()
    views = make_views(run, images, 2)
    rows = torch.arange(len(images))
    batch = Batch(views=views, index=rows, position=rows, seed=run.config.seed, device=run.device)
    first, second, *_ = run.method.health_embeddings(run.method.phases[-1], batch)
    return first.float(), second.float()
