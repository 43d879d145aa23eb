"""How fast a set of images becomes training views on this machine, and what limits it.

`python -m ssgear.doctor --data DIR` shows it. A few images of the set are read, decoded and
augmented stage by stage on one core; then the engine that training would pick makes whole batches
of them, as it would in a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.augment import augment
from ssgear.data.augment.spec import spread
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.choose import augmentation, build_loader, choose_engine, view_size
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.loading import load_images
from ssgear.data.sources.source import BadFile, Source
from ssgear.errors import DataError
from ssgear.kernels import philox

SAMPLE = 256
"""Images that are looked at, drawn at random; more would tell little."""
SECONDS = 1.0
"""Time of a stage, at most; the engine gets three times as much."""
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured of a set; rates are per second."""

    engine: str
    """The engine that training picks."""
    reason: str
    """Why that one."""
    size: int
    """Side of a view in pixels."""
    shortest: tuple[int, int]
    """Height and width of the smallest image looked at."""
    largest: tuple[int, int]
    """Height and width of the largest one."""
    megabytes: float
    """Mean size of a file, 10^6 bytes."""
    read: float
    """Files read, one core."""
    decoded: float
    """Images decoded, reading included, one core."""
    views: float
    """Views made of images in memory, one core."""
    fed: float
    """Images of which the engine made two views each, with the workers given."""
    looked_at: int
    """Files that were read from start to end first."""
    bad: tuple[BadFile, ...]
    """Those of them that cannot be read."""

    @property
    def limit(self) -> str:
        """Return the stage that takes most of an image's time, in words."""
        times = {"reading files": 1 / self.read, "augmentation": 2 / self.views}
        times["decoding"] = max(1 / self.decoded - 1 / self.read, 0.0)
        if self.engine == "resident":
            return "augmentation"
        return max(times, key=lambda stage: times[stage])


def measure(source: Source, config: DataConfig, device: torch.device) -> Speed:
    """Measure every stage on images drawn from a source, and the engine on the same.

    Raises:
        DataError: fewer than two images of the sample can be read.
    """
    size = view_size(config, source)
    specs = augmentation(config, size)
    engine, reason = choose_engine(config, source, specs=specs, device=device)
    sample = source.subset(philox.permutation(0, len(source))[:SAMPLE])
    some = _readable(sample)
    shapes = [_shape(some.decode(index)) for index in range(min(len(some), BATCH))]
    ordered = sorted(shapes, key=lambda shape: shape[0] * shape[1])
    files = [len(some.encoded(index)) for index in range(len(shapes))]
    return Speed(
        engine=engine,
        reason=reason,
        size=size,
        shortest=ordered[0],
        largest=ordered[-1],
        megabytes=sum(files) / len(files) / 1e6,
        read=_rate(some.encoded, len(some)),
        decoded=_rate(some.decode, len(some)),
        views=_view_rate(some, config, size),
        fed=_feed_rate(some, config, engine, size, device),
        looked_at=len(sample),
        bad=some.bad,
    )


def _readable(source: Source) -> Source:
    """Return the source without the images that cannot be read."""
    bad = []
    for index in range(len(source)):
        try:
            source.checked_size(index)
        except BadImageError as error:
            bad.append((index, str(error)))
    good = source.without(bad)
    if len(good) < 2:
        raise DataError(f"--data: {len(good)} of {len(source)} images can be read; two are needed")
    return good


def _shape(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _rate(work: Callable[[int], object], count: int) -> float:
    """Return how often `work` is done in a second, over as many images as the time allows."""
    start = time.perf_counter()
    for done in range(count):
        work(done)
        spent = time.perf_counter() - start
        if spent > SECONDS:
            break
    return (done + 1) / spent


def _view_rate(source: Source, config: DataConfig, size: int) -> float:
    """Return the views of one core, of images that are in memory as squares."""
    index = torch.arange(min(len(source), 32))
    images = load_images(source, index, max(size, min(source.decode(0).shape[1:])))
    spec = augmentation(config, size)[0]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rate = _rate(
            lambda epoch: augment(
                images, spec, size=size, seed=0, epoch=epoch, indices=index, view=0
            ),
            SAMPLE,
        )
    finally:
        torch.set_num_threads(threads)
    return rate * len(index)


def _feed_rate(
    source: Source, config: DataConfig, engine: str, size: int, device: torch.device
) -> float:
    """Return the images a second of the engine, walking over the sample as a run would."""
    plan = ViewPlan(specs=spread(augmentation(config, size), 2), size=size, seed=0, device=device)
    batch = min(BATCH, len(source))

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=batch, seed=0)

    # a sample may fit where the whole does not
    loader = build_loader(replace(config, loader=engine), source, sampler_for, plan).loader  # type: ignore[arg-type]
    start, seen, epoch = time.perf_counter(), 0, 0
    while time.perf_counter() - start < 3 * SECONDS:
        for made in loader.epoch(epoch, 0, lambda _: [""]):
            seen += len(made)
        epoch += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    return seen / (time.perf_counter() - start)
