"""Time what feeds a model: `python -m benchmarks.loaders [--sizes 32 64 224] [--json FILE]`.

Three tables. Views of images in memory (`benchmarks.augment`, which checks them first). Two views
from JPEG files: each engine against torchvision's DataLoader and DALI by itself; all take turns,
and everyone's fastest epoch counts. And the share of a training step that waits for data.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks import augment, machine
from benchmarks.kernels import Parser
from benchmarks.loader_peers import dali_files, torchvision_files
from benchmarks.workloads import WrongResultError
from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.choose import build_loader
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources import decode_all, open_source

EPOCHS = 3
BATCH = 64
SIZES = {32: (32, 32), 64: (64, 16), 224: (256, 4)}
"""Side of the views: side of the images, and batches of an epoch."""
ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender of the table of files."""

    what: str
    contender: str
    images_per_second: float
    """Of which two views each were made."""
    ratio: float
    """Of the faster of torch and dali over this one."""


def embedded(count: int, side: int) -> Tensor:
    """Return embedded images [count, 3, side, side] uint8, enlarged where they are smaller."""
    images, _ = decode_all(open_source(DataConfig(), "train"), DataConfig(), progress=False)
    images = images[torch.arange(count) % len(images)]
    if side == images.shape[-1]:
        return images
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    larger = [each.resize((side, side), Image.Resampling.BICUBIC) for each in pictures]
    arrays = [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in larger]
    return torch.stack([each.reshape(side, side, 3).permute(2, 0, 1) for each in arrays])


def write_files(folder: Path, count: int, side: int) -> None:
    """Write JPEG files in two class folders."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(embedded(count, side)):
        data = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(data, "JPEG", quality=90)
        (folder / "ab"[number % 2] / f"{number:05}.jpg").write_bytes(data.getvalue())


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


def views_from_files(size: int, device: str, workers: int) -> list[Row]:
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
        speeds = fastest_epochs(walks, BATCH * steps)
    best = max(speeds[name] for name in files)
    what = f"{size} px from JPEG files of {side} px, {workers} workers"
    return [
        Row(what=what, contender=name, images_per_second=speed, ratio=best / speed)
        for name, speed in speeds.items()
    ]


def fastest_epochs(walks: dict[str, Callable[[], Iterable[Any]]], count: int) -> dict[str, float]:
    """Return images a second of everyone's fastest epoch, start of its processes included."""
    times: dict[str, list[float]] = {name: [] for name in walks}
    for _ in range(EPOCHS):
        for name, walk in walks.items():
            start = time.perf_counter()
            for _ in walk():
                pass
            times[name].append(time.perf_counter() - start)
    return {name: count / min(values) for name, values in times.items()}


def waiting(preset: str) -> float:
    """Return the share of a preset's steps that waits for data, over its first epoch."""
    from ssgear.config import cli
    from ssgear.engine.build import prepare
    from ssgear.engine.trainer import Trainer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        quiet = ["--log.no-tensorboard", "--log.no-progress", "--log.every", "31"]
        run = prepare(
            cli.parse(
                ["--preset", preset, "--output", str(folder), "--optim.max-steps", "93", *quiet]
            )
        )
        Trainer(run, ()).run()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return min(float(line["data_wait"]) for line in lines if line["kind"] == "train")


def show(rows: list[Row]) -> None:
    """Print the lines of one size."""
    print(f"\n{rows[0].what}: two views of each image")
    for row in rows:
        speed = f"{row.images_per_second:10,.0f} images/s"
        print(f"  {row.contender:28}{speed}{row.ratio:9.2f}x", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Check, time, print, and keep with --json."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--workers", type=int, default=2, help="processes that read files")
    parser.add_argument("--json", type=Path, help="write the results there")
    options: argparse.Namespace = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    views: list[augment.Row] = []
    torch.set_num_threads(1)
    try:
        print(f"{augment.check()} results of the fused augmentation agree with the reference")
    except WrongResultError as error:
        print(f"benchmark: {error}; nothing is timed", file=sys.stderr)
        return 1
    rates = augment.core_rates()
    for job in (job for job in augment.JOBS if job.view in options.sizes):
        views += (lines := augment.measure(job, ROUNDS, rates))
        augment.show(lines)
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for size in options.sizes:
        rows += (found := views_from_files(size, device, options.workers))
        show(found)
    share = waiting("quick")
    print(f"\nthe quick preset waits for its data {100 * share:.1f} % of the step")
    if options.json:
        table = {
            **machine.describe(device),
            "views": [asdict(row) for row in views],
            "files": [asdict(row) for row in rows],
            "quick_waits": share,
        }
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
