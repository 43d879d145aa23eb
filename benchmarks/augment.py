"""Check and time the fused augmentation on one core.

Every form is first held to the reference on `CASES`; then all that makes a view of an image in
memory takes turns: ours (its draw of parameters included), torchvision v2 on PIL images (what most
code bases run), lightly's transform, kornia on batches, and our PyTorch reference. A core's own
time counts, so that neighbours disturb little; a peer that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.common import table
from benchmarks.common.command import Benchmark
from benchmarks.common.machine import TRIES, Cost, Rates
from benchmarks.common.peers import is_installed
from benchmarks.common.timing import in_turns
from benchmarks.common.workloads import require
from ssgear.data.augment import AugmentSpec, augment, sample
from ssgear.kernels.augment.forms import FORMS, Views
from ssgear.kernels.augment.params import BLUR, SOLARISE
from ssgear.kernels.augment.views import CASES, augment_views
from ssgear.kernels.forms import names_of

PEERS_AT_ONCE = 24
"""Images that a slow contender works on in a round."""
KERNEL_WIDTH = 4
"""Taps of the bicubic kernel that are not zero."""
PER_PIXEL = {"brightness": 12, "contrast": 18, "saturation": 18, "hue": 51, "grey": 5, "last": 6}
"""Additions, multiplications, comparisons and selections for each pixel of three channels."""
COLUMNS = {
    "us a view": "{0.microseconds:.1f}",
    "of limit": "{0.percent_of_limit:.0f} %",
    "over ours": "{0.ratio:.1f}x",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One kind of view."""

    name: str
    """Of the augmentation."""
    image: int
    """Side of the images."""
    view: int
    """Side of the views."""
    batch: int
    """Images of a batch."""


JOBS = (
    Job(name="simclr-cifar", image=32, view=32, batch=512),
    Job(name="simclr-cifar", image=32, view=32, batch=64),
    Job(name="simclr", image=64, view=64, batch=256),
    Job(name="simclr", image=256, view=224, batch=32),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender at one job."""

    job: str
    contender: str
    microseconds: float
    """For one view."""
    ratio: float
    """Over ours."""
    cost: Cost
    percent_of_limit: float


def check() -> int:
    """Hold the fused forms to the reference on `CASES`; return the number of results."""
    num_results = 0
    for case in CASES:
        images, params = case.make()
        params[:, SOLARISE] = 0  # a rounding at its threshold would count as a jump
        for name in names_of(FORMS[:-1], Views(images, case.size)):
            ours, truth = (
                augment_views(images, params, case.settings, size=case.size, impl=impl)  # type: ignore[arg-type]
                for impl in (name, "reference")
            )
            require(f"{name} {case}", ours, truth, 1e-3 / 255)
            num_results += 1
    return num_results


def pictures(job: Job) -> Tensor:
    """Return smooth images with some noise, uint8 [N, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(job.batch, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (job.image, job.image), mode="bilinear")
    images += 0.05 * torch.rand(images.shape, generator=generator)
    return (images * 255).clamp(0, 255).to(torch.uint8)


def cost_of(spec: AugmentSpec, job: Job) -> Cost:
    """Return bytes and operations of a view, on the average over many draws."""
    indices = torch.arange(job.batch)
    sides = torch.full_like(indices, job.image)
    same = {"seed": 0, "indices": indices, "view": 0, "heights": sides, "widths": sides}
    draws = [sample(spec, epoch=epoch, **same) for epoch in range(20)]
    tall, wide = torch.cat([params.box[:, 2:] for params in draws]).double().T
    side, area = job.view, job.view**2
    shrink = (torch.stack((tall, wide)) / side).clamp(min=1) * KERNEL_WIDTH
    per_tap = 2 * 3 * side * (tall * shrink[1] + side * shrink[0])
    resize = per_tap + 4 * 3 * side * (tall + side)  # a rounding has four
    jittered = spec.jitter * sum(list(PER_PIXEL.values())[:4])
    sigma = torch.cat([params.packed[:, BLUR] for params in draws]).double()
    reach = 6.4 * sigma  # where a weight is 1e-9
    reach = reach.ceil().clamp(max=max(spec.blur_radius(side), 0))
    blur = 3 * 2 * (1 + 3 * reach) * (reach > 0)
    pixels = area * (jittered + spec.grey * PER_PIXEL["grey"] + PER_PIXEL["last"] + blur)
    moved = 3 * (tall * wide).mean() + 12 * area
    return Cost(flop=float((resize + pixels).mean()), bytes=float(moved))


def own_time(call: Callable[[], object]) -> float:
    """Return the milliseconds that this thread itself was at work on a call."""
    start = time.thread_time()
    call()
    return 1e3 * (time.thread_time() - start)


def core_rates() -> Rates:
    """Measure what one core multiplies and copies, as `machine.measure_rates` does, in its time."""
    side, many = 1024, torch.ones(2**26, dtype=torch.uint8)
    a, b = torch.randn(2, side, side)
    product, copied = torch.empty_like(a), torch.empty_like(many)
    multiplying = min(own_time(lambda: torch.mm(a, b, out=product)) for _ in range(TRIES))
    copying = min(own_time(lambda: copied.copy_(many)) for _ in range(TRIES))
    return Rates(flop=2 * side**3 / multiplying, exps=1.0, bytes=2 * many.nbytes / copying)


def limit_us(cost: Cost, rates: Rates) -> float:
    """Return the least time of a view: a matrix product does two operations in one."""
    return 1e3 * max(2 * cost.flop / rates.flop, cost.bytes / rates.bytes)


def contenders(spec: AugmentSpec, job: Job) -> Iterator[tuple[str, Callable[[], object], int]]:
    """Yield a name, what makes views, and how many."""
    images, indices = pictures(job), torch.arange(job.batch)
    few = slice(0, min(job.batch, PEERS_AT_ONCE))
    settings = {"size": job.view, "seed": 0, "epoch": 0, "view": 0}
    yield "ours", lambda: augment(images, spec, indices=indices, **settings), job.batch
    yield (
        "reference",
        lambda: augment(images[few], spec, indices=indices[few], impl="reference", **settings),
        few.stop,
    )
    pillow = [v2.functional.to_pil_image(image) for image in images[few]]
    transform = torchvision_transform(spec, job.view)
    yield "torchvision", lambda: [transform(image) for image in pillow], few.stop
    if is_installed("lightly"):
        lightly = lightly_transform(spec, job.view)
        yield "lightly", lambda: [lightly(image) for image in pillow], few.stop
    if is_installed("kornia"):
        on_batches = kornia_transform(spec, job.view)
        yield "kornia", lambda: on_batches(images.float() / 255), job.batch


def torchvision_transform(spec: AugmentSpec, size: int) -> v2.Transform:
    """Return the same augmentation by torchvision v2, for PIL images."""
    jitter = v2.ColorJitter(*spec.strengths)
    kernel = 2 * spec.blur_radius(size) + 1
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size, spec.crop_scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
            ),
            v2.RandomHorizontalFlip(spec.flip),
            v2.RandomApply([jitter], p=spec.jitter),
            v2.RandomGrayscale(spec.grey),
            v2.RandomApply([v2.GaussianBlur(kernel, spec.blur_sigma)], p=spec.blur),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )


def lightly_transform(spec: AugmentSpec, size: int) -> Callable[[Image], Tensor]:
    """Return lightly's SimCLR view, for PIL images."""
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    brightness, contrast, saturation, hue = spec.strengths
    view: Callable[[Image], Tensor] = SimCLRViewTransform(
        input_size=size,
        cj_prob=spec.jitter,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=(spec.crop_scale or (1.0, 1.0))[0],
        random_gray_scale=spec.grey,
        gaussian_blur=spec.blur,
        sigmas=spec.blur_sigma,
        normalize={"mean": list(spec.mean), "std": list(spec.std)},
    )
    return view


def kornia_transform(spec: AugmentSpec, size: int) -> torch.nn.Module:
    """Return the same augmentation by kornia, for batches in [0, 1]."""
    from kornia import augmentation as kornia

    kernel = (2 * spec.blur_radius(size) + 1,) * 2
    blur = [kornia.RandomGaussianBlur(kernel, spec.blur_sigma, p=spec.blur)] if spec.blur else []
    return torch.nn.Sequential(
        kornia.RandomResizedCrop((size, size), scale=spec.crop_scale, resample="bicubic"),
        kornia.RandomHorizontalFlip(p=spec.flip),
        kornia.ColorJitter(*spec.strengths, p=spec.jitter),
        kornia.RandomGrayscale(p=spec.grey),
        *blur,
        kornia.Normalize(torch.tensor(spec.mean), torch.tensor(spec.std)),
    )


def rows_of(job: Job, rounds: int, rates: Rates) -> list[Row]:
    """Time all contenders of a job in turns; the fastest round counts."""
    spec = AugmentSpec.named(job.name)
    runs = {name: (run, views) for name, run, views in contenders(spec, job)}
    times = in_turns(runs, lambda pair: 1e3 * own_time(pair[0]) / pair[1], rounds)
    best = {name: min(values) for name, values in times.items()}
    cost = cost_of(spec, job)
    return [
        Row(
            job=f"{job.name} {job.image} to {job.view} px, batch {job.batch}",
            contender=name,
            microseconds=microseconds,
            ratio=microseconds / best["ours"],
            cost=cost,
            percent_of_limit=100 * limit_us(cost, rates) / microseconds,
        )
        for name, microseconds in best.items()
    ]


def show(rows: list[Row]) -> None:
    """Print the lines of one job."""
    cost = rows[0].cost
    title = f"{rows[0].job}: {cost.flop / 1e3:.0f} k operations, {cost.bytes / 1e3:.0f} kB a view"
    table.show(title, rows, "{0.contender}", COLUMNS)


def measure_jobs(jobs: Iterable[Job], rounds: int) -> list[Row]:
    """Check, time and print; to be called on one thread."""
    print(f"{check()} results of the fused augmentation agree with the reference")
    rates = core_rates()
    rows: list[Row] = []
    for job in jobs:
        rows += (lines := rows_of(job, rounds, rates))
        show(lines)
    return rows


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all jobs."""
    return {"rows": measure_jobs(JOBS, options.rounds)}


BENCHMARK = Benchmark("augment", __doc__, measure, rounds=12, threads=1, devices=("cpu",))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
