"""Time what feeds a model: views of images in memory, and of files.

Three tables. Views of images in memory (`benchmarks.augment`, which checks them first). Two views
from JPEG files: each engine against torchvision's DataLoader and DALI by itself; all take turns,
and everyone's fastest epoch of three counts. And the share of a training step that waits for data.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import augment
from benchmarks.common import table
from benchmarks.common.command import Benchmark, Parser
from benchmarks.common.images import write_files
from benchmarks.common.timing import in_turns
from benchmarks.common.training import prepared, train_lines
from benchmarks.loader_peers import dali_files, torchvision_files
from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.choose import build_loader
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources import open_source
from ssgear.engine.trainer import Trainer

EPOCHS = 3
BATCH = 64
SIZES = {32: (32, 32), 64: (64, 16), 224: (256, 4)}
"""Side of the views: side of the images, and batches of an epoch."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender of the table of files."""

    what: str
    contender: str
    images_per_second: float
    """Of which two views each were made."""
    ratio: float
    """Of the faster of torch and dali over this one."""


def epochs_of(
    engine: str, folder: Path, size: int, spec: AugmentSpec, device: str, workers: int
) -> Callable[[], Iterable[Any]]:
    """Build one of our engines, and return what walks through its next epoch of two views."""
    config = DataConfig(path=folder, loader=engine, workers=workers, test_share=0.0)  # type: ignore[arg-type]
    plan = ViewPlan(specs=(spec, spec), size=size, seed=0, device=torch.device(device))

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=BATCH, seed=0)

    loader = build_loader(config, open_source(config, "train"), sampler_for, plan).loader
    numbers = iter(range(1 << 30))
    return lambda: loader.epoch(next(numbers), 0, lambda _: [""])


def views_from_files(size: int, device: str, workers: int, rounds: int) -> list[Row]:
    """Time two views of every image, from JPEG files."""
    side, steps = SIZES[size]
    spec = AugmentSpec.named("simclr-cifar" if size == 32 else "simclr")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, BATCH * steps, side)
        has_dali = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
        files = ["torch", *(["dali"] if has_dali else [])]
        engines = ["resident", *files] if side <= 96 else files
        walks = {
            engine: epochs_of(engine, folder, size, spec, device, workers) for engine in engines
        }
        same = (folder, spec, size, BATCH, workers)
        walks["torchvision v2, DataLoader"] = torchvision_files(*same)
        if has_dali:
            walks["DALI alone"] = dali_files(*same)
        seconds = in_turns(walks, seconds_of, min(rounds, EPOCHS))
        speeds = {name: BATCH * steps / min(times) for name, times in seconds.items()}
    best = max(speeds[name] for name in files)
    what = f"{size} px from JPEG files of {side} px, {workers} workers"
    return [
        Row(what=what, contender=name, images_per_second=speed, ratio=best / speed)
        for name, speed in speeds.items()
    ]


def seconds_of(walk: Callable[[], Iterable[Any]]) -> float:
    """Return the time of an epoch, start of its processes included."""
    start = time.perf_counter()
    for _ in walk():
        pass
    return time.perf_counter() - start


def waiting(preset: str, device: str) -> float:
    """Return the share of a preset's steps that waits for data, over its first epoch."""
    words = ("--preset", preset, "--log.every", "31", "--optim.max-steps", "93")
    with tempfile.TemporaryDirectory() as name:
        run = prepared(Path(name) / "run", device, *words)
        Trainer(run, ()).run()
        return min(float(line["data_wait"]) for line in train_lines(run))


def show(rows: list[Row]) -> None:
    """Print the lines of one size."""
    columns = {"images/s": "{0.images_per_second:,.0f}", "behind ours": "{0.ratio:.2f}x"}
    table.show(f"{rows[0].what}: two views of each image", rows, "{0.contender}", columns)


def add_options(parser: Parser) -> None:
    """Add sizes of views, and processes."""
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--workers", type=int, default=2, help="processes that read files")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Check, time and print."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jobs = [job for job in augment.JOBS if job.view in options.sizes]
    views = augment.measure_jobs(jobs, options.rounds)
    torch.set_num_threads(threads)
    files: list[Row] = []
    for size in options.sizes:
        files += (rows := views_from_files(size, options.device, options.workers, options.rounds))
        show(rows)
    share = waiting("quick", options.device)
    print(f"\nthe quick preset waits for its data {100 * share:.1f} % of the step")
    return {"views": views, "files": files, "quick_waits": share}


BENCHMARK = Benchmark("loaders", __doc__, measure, add_options, rounds=8)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
