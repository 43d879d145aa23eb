"""The callback that looks at a method's generator: samples, distance to real images, collapse.

It stands beside `ssgear.callbacks.readings` and, like it, joins engine, evaluation and report.
Noise and real images are the same at every look, so that rows through time show one thing changing.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssgear.callbacks.previews import as_pixels, make_views
from ssgear.config.schema import Config
from ssgear.data.sources import Source
from ssgear.data.sources.loading import GREY, load_images, load_readable
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.features import extract
from ssgear.evaluation.generated.fid import frechet_distance
from ssgear.evaluation.generated.inception import About, fid, load_inception
from ssgear.methods.base import GeneratorSide, PairedWith
from ssgear.report import contents
from ssgear.storage.atomic import write_files

SHOWN = 64
"""Samples of one look."""
PAIRS = 12
"""Positives that the report shows side by side."""
COMPARED = 1000
"""Real and synthetic images of a distance."""
EARLY = 0.05
"""Share of the run after which images are kept, to be compared with those at its end."""
LOOKS = 20
"""How often in a run samples are drawn."""
ALIKE = 0.2
"""Synthetic images whose pixels vary less than this share of the real ones' have collapsed."""
BLOCK = 500
"""Images that are brought to the encoder's size at a time."""
SEED = 0


def check_inception(config: Config) -> None:
    """Find out before the run begins whether --eval.inception can be used at its end."""
    if config.eval.inception is not None:
        load_inception(config.eval.inception, option="--eval.inception")


class Samples(Callback):
    """Draws from the generator at regular times; does nothing where a method has none."""

    def __init__(self) -> None:
        """Start without looks."""
        self.early: Tensor | None = None
        self.looks: list[tuple[int, Tensor]] = []
        self.collapsed = False
        self.contents: contents.Samples | None = None
        self._real: tuple[Tensor, Tensor | None] | None = None

    def on_start(self, run: Run) -> None:
        """Say so where an option means nothing."""
        if run.config.eval.inception is not None and run.method.generator is None:
            run.log.note(run.step, "--eval.inception: no generator is trained, so there is no FID")

    def on_step(self, run: Run) -> None:
        """Look where it is time to."""
        if run.method.generator is None:
            return
        early = run.step == _early_step(run)
        if not early and run.step % max(1, run.total_steps // LOOKS):
            return
        with run.export_weights():
            if run.world.is_main:
                self._look(run, run.method.generator, early)

    def on_end(self, run: Run, reason: Reason) -> None:
        """Save the generator and take the last look; at the end, measure how far it came."""
        generator = run.method.generator
        if generator is None:
            return
        with run.export_weights():
            if not run.world.is_main:
                return
            generator.save(run.directory, run.source.classes)
            images, labels = self.real(run)
            if reason != "finished":  # a run that was asked to stop is not held up
                images, labels = images[:SHOWN], None if labels is None else labels[:SHOWN]
            made = generator.samples(images, labels, seed=SEED)
            if not self.looks or self.looks[-1][0] != run.step:
                self._keep(run, made[:SHOWN])
            run.results = run.results.with_generator({"collapsed": self.collapsed})
            samples = contents.Samples(
                real=_pixels(images[:SHOWN]),
                steps=[(step, _pixels(look)) for step, look in self.looks],
                count=len(images),
                paired=generator.condition != "none",
                pairs=_pairs(run, generator.pairs_with, images[:PAIRS], made[:PAIRS]),
            )
            if reason == "finished":
                samples = replace(samples, frechet=self._distances(run, images, made))
                samples = _fid(run, generator, samples)
            self.contents = samples

    def real(self, run: Run) -> tuple[Tensor, Tensor | None]:
        """Return the real images of every look, uint8 [N, 3, S, S], and their labels."""
        if self._real is None:
            source: Source = run.test or run.source
            count = min(COMPARED, len(source))
            index = torch.linspace(0, len(source) - 1, count).round().long()
            # neighbours in the data set are often of one class
            index = index[torch.randperm(count, generator=torch.Generator().manual_seed(SEED))]
            workers = run.config.data.workers
            images, index = load_readable(source, index, run.plan.size, workers=workers)
            self._real = images, None if source.labels is None else source.labels[index]
        return self._real

    def state_dict(self) -> dict[str, Any]:
        """Return the looks so far."""
        looks = [[step, look] for step, look in self.looks]
        return {"early": self.early, "looks": looks, "collapsed": self.collapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the looks so far."""
        self.early, self.collapsed = state["early"], state["collapsed"]
        self.looks = [(int(step), look) for step, look in state["looks"]]

    def _look(self, run: Run, generator: GeneratorSide, early: bool) -> None:
        images, labels = self.real(run)
        count = len(images) if early else SHOWN
        chosen = None if labels is None else labels[:count]
        made = generator.samples(images[:count], chosen, seed=SEED)
        if early:
            self.early = made
        self._keep(run, made[:SHOWN])
        if run.step > _played(run, 2 * EARLY):  # until then it has not begun
            self._warn(run, images[:SHOWN], made[:SHOWN])

    def _keep(self, run: Run, made: Tensor) -> None:
        self.looks.append((run.step, made))
        (run.directory / "samples").mkdir(exist_ok=True)
        write_files({run.directory / "samples" / f"step-{run.step}.png": _grid(made)})

    def _warn(self, run: Run, real: Tensor, made: Tensor) -> None:
        """Say so where all synthetic images look alike."""
        spread = [images.float().std(dim=0).mean().item() for images in (real, made)]
        collapsed = spread[1] < ALIKE * spread[0]
        if collapsed and not self.collapsed:
            run.log.note(
                run.step,
                f"the generator has collapsed: its images vary by {spread[1]:.1f} grey levels, "
                f"real ones by {spread[0]:.1f}; try a lower --method.critic-lr, a penalty, or "
                "--method.critic-augment diffaugment",
            )
        self.collapsed = collapsed

    def _distances(self, run: Run, images: Tensor, made: Tensor) -> dict[str, float]:
        """Return Frechet distances in the space of the final encoder, which scores both times."""
        if len(images) < 2:
            return {}  # one image has no covariance
        encoder, size = run.inference_encoder(), run.plan.size

        def features(some: Tensor) -> Tensor:
            blocks = torch.split(some, BLOCK)
            resized = (_resized(block, size) for block in blocks)
            return extract(encoder, resized, device=run.device)

        real = features(images)
        end = frechet_distance(features(made), real)
        distances, figures = {"at the end": end}, {}
        if self.early is not None:
            when, key = _early(run)
            early = frechet_distance(features(self.early), real)
            distances, figures = {when: early, **distances}, {key: early}
        figures |= {"frechet_own_encoder": end, "images_compared": len(images)}
        run.results = run.results.with_generator(figures)
        return distances


def _early(run: Run) -> tuple[str, str]:
    """Return what to call the early distance: a run that was cut short has no 5 % of its own."""
    if run.step >= run.total_steps:
        return "at 5 % of training", "frechet_own_encoder_at_5_percent"
    step = _early_step(run)
    return f"at step {step} of {run.step}", f"frechet_own_encoder_at_step_{step}"


def _early_step(run: Run) -> int:
    return max(1, round(_played(run, EARLY)))


def _played(run: Run, share: float) -> float:
    """Return the step at which that share of the generator's training is over."""
    begin = max((phase.after for phase in run.method.phases), default=0.0)
    return (begin + share * (1 - begin)) * run.total_steps


def _fid(run: Run, generator: GeneratorSide, samples: contents.Samples) -> contents.Samples:
    """Add the FID of as many synthetic images as there are test images, where it is wanted."""
    config = run.config
    source: Source = run.test or run.source
    count = min(len(source), config.eval.final_images or len(source))
    if config.eval.inception is None or count < 2:
        return samples
    index = torch.linspace(0, len(source) - 1, count).round().long()
    images, index = load_readable(source, index, run.plan.size, workers=config.data.workers)
    labels = None if source.labels is None else source.labels[index]
    made = generator.samples(images, labels, seed=SEED)
    side = made.shape[-1]
    if side != run.plan.size:
        images = load_images(source, index, side, workers=config.data.workers, missing=GREY)
    about = About(
        real=f"{'test' if run.test else 'training'} images of {source.name}",
        condition=generator.condition,
        seed=SEED,
    )
    inception = load_inception(config.eval.inception, option="--eval.inception")
    figures = fid(inception, made, images, about=about, device=run.device)
    run.log.say(f"FID {figures['fid']:.2f}: {figures['fid_protocol']}")
    run.results = run.results.with_generator(figures)
    return replace(samples, **figures)


def _pairs(run: Run, kind: PairedWith, images: Tensor, made: Tensor) -> contents.Pairs | None:
    """Return positives [N, 2, S, S, 3] uint8 as the encoder sees them; None where there are none.

    A synthetic image beside the real one of its row, or two views of it.
    """
    if kind == "nothing":
        return None
    second = made if kind == "synthetic" else images
    # the real row is the first view; synthetic ones are drawn as views of their own
    both = [*make_views(run, second, 1), *make_views(run, made, 1, first=len(run.plan.specs))]
    shown = torch.stack([as_pixels(run, view) for view in both], dim=1)
    return contents.Pairs(kind=kind, images=shown.permute(0, 1, 3, 4, 2).numpy())


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    wide = torch.nn.functional.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True
    )
    return wide.round().clamp(0, 255).byte()


def _pixels(images: Tensor) -> contents.Pixels:
    pixels: contents.Pixels = images.permute(0, 2, 3, 1).numpy()
    return pixels


def _grid(images: Tensor) -> bytes:
    """Return a PNG of images [N, 3, R, R] side by side, eight in a row."""
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    side = images.shape[-1]
    paper = Image.new("RGB", (columns * side, rows * side))
    for place, pixels in enumerate(_pixels(images)):
        paper.paste(Image.fromarray(pixels), (place % columns * side, place // columns * side))
    buffer = io.BytesIO()
    paper.save(buffer, "PNG")
    return buffer.getvalue()
