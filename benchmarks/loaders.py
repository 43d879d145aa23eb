"""Time the making of views: `python -m benchmarks.loaders [--sizes 32 64 224] [--json FILE]`.

Three tables. Views of images in memory, ours against torchvision v2, kornia and lightly, checked
against the reference before anything is timed. Two views from JPEG files, each engine against
torchvision's DataLoader and DALI by itself. And the share of a training step that waits for data.
All contenders take turns in every round; the fastest round counts.
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

from benchmarks import machine
from benchmarks.loader_peers import Maker, dali_files, peers, torchvision_files
from benchmarks.machine import Cost, Rates
from benchmarks.workloads import WrongResultError, require
from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec, augment
from ssgear.data.loading import ViewPlan, build_loader
from ssgear.data.sampler import Sampler
from ssgear.data.sources import decode_all, open_source

ROUNDS = 5
EPOCHS = 3
BATCH = 64
STEPS = {32: 32, 64: 16, 224: 4}
"""Batches of an epoch of files, by the size of the views."""
PARITY = 0.02
"""Largest difference from the reference, in units of a normalised view."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Views of one side, from images of one side."""

    size: int
    side: int
    augmentation: str

    @property
    def title(self) -> str:
        """Return it in words."""
        return f"{self.augmentation}, {self.size} px from {self.side} px"


JOBS = {
    32: Job(size=32, side=32, augmentation="simclr-cifar"),
    64: Job(size=64, side=64, augmentation="simclr"),
    224: Job(size=224, side=256, augmentation="simclr"),
}
COUNTS = {32: 256, 64: 128, 224: 16}
"""Images of a round, by the size of the views."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender of one table."""

    table: str
    what: str
    contender: str
    images_per_second: float
    """Views in memory: views a second; files: images a second, two views each."""
    ratio: float
    """Of ours over this one: how many times faster ours is."""
    percent_of_limit: float | None = None


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


def ours(images: Tensor, spec: AugmentSpec, size: int, impl: str) -> Maker:
    """Return our way, drawing new parameters in every call."""
    epochs = iter(range(1 << 30))
    indices = torch.arange(len(images), device=images.device)

    def make() -> Tensor:
        return augment(
            images,
            spec,
            size=size,
            seed=0,
            epoch=next(epochs),
            indices=indices,
            view=0,
            impl=impl,  # type: ignore[arg-type]
        )

    return make


def view_cost(job: Job, count: int) -> Cost:
    """Return the least work: pixels in, float32 views out, two passes of a cubic's four taps."""
    read, written = 3 * job.side**2, 4 * 3 * job.size**2
    resample = 2 * 4 * 3 * job.size * (job.size + job.side)
    return Cost(flop=float(count * resample), bytes=float(count * (read + written)))


def check(images: Tensor, spec: AugmentSpec, size: int) -> None:
    """Hold what is timed to the reference, given the same draws."""
    fast, right = (ours(images, spec, size, impl)() for impl in ("auto", "reference"))
    assert isinstance(fast, Tensor) and isinstance(right, Tensor)
    require(f"views of {size} px", fast.double(), right.double(), PARITY)


def fastest(makers: dict[str, Maker], device: str) -> dict[str, float]:
    """Return the milliseconds of each one's fastest round."""
    for make in makers.values():
        make()
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            times[name].append(machine.milliseconds(make, device))
    return {name: min(values) for name, values in times.items()}


def views_in_memory(job: Job, rates: Rates, device: str) -> list[Row]:
    """Time one view of every image, decoded."""
    spec, count = AugmentSpec.named(job.augmentation), COUNTS[job.size]
    images = embedded(count, job.side)
    there = images.to(device)
    check(there, spec, job.size)
    makers = {"ours": ours(there, spec, job.size, "auto")}
    makers["ours, reference"] = ours(there, spec, job.size, "reference")
    times = fastest(makers | peers(images, spec, job.size), device)
    limit = rates.milliseconds(view_cost(job, count))
    return [
        Row(
            table="views in memory",
            what=job.title,
            contender=name,
            images_per_second=1000 * count / taken,
            ratio=taken / times["ours"],
            percent_of_limit=100 * limit / taken,
        )
        for name, taken in times.items()
    ]


def write_files(folder: Path, count: int, side: int) -> None:
    """Write JPEG files in two class folders."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for number, image in enumerate(embedded(count, side)):
        data = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(data, "JPEG", quality=90)
        (folder / "ab"[number % 2] / f"{number:05}.jpg").write_bytes(data.getvalue())


def epochs_of(
    engine: str, folder: Path, job: Job, device: str, workers: int
) -> Callable[[], Iterable[Any]]:
    """Build one of our engines, and return what walks through its next epoch of two views."""
    config = DataConfig(path=folder, loader=engine, workers=workers, test_share=0.0)  # type: ignore[arg-type]
    spec = AugmentSpec.named(job.augmentation)
    plan = ViewPlan(specs=(spec, spec), size=job.size, seed=0, device=torch.device(device))

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=BATCH, seed=0)

    loader, _, _ = build_loader(config, open_source(config, "train"), sampler_for, plan)
    numbers = iter(range(1 << 30))
    return lambda: loader.epoch(next(numbers), 0, lambda _: [""])


def views_from_files(job: Job, device: str, workers: int) -> list[Row]:
    """Time two views of every image, from JPEG files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, BATCH * STEPS[job.size], job.side)
        spec = AugmentSpec.named(job.augmentation)
        has_dali = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
        engines = ["torch", *(["dali"] if has_dali else [])]
        engines = ["resident", *engines] if job.side <= 96 else engines
        walks = {engine: epochs_of(engine, folder, job, device, workers) for engine in engines}
        same = (folder, spec, job.size, BATCH, workers)
        walks["torchvision v2, DataLoader"] = torchvision_files(*same)
        if has_dali:
            walks["DALI alone"] = dali_files(*same)
        speeds = fastest_epochs(walks, BATCH * STEPS[job.size])
    best = max(speeds[name] for name in engines if name != "resident")
    return [
        Row(
            table=f"two views from files, {workers} workers",
            what=job.title,
            contender=name,
            images_per_second=speed,
            ratio=best / speed,
        )
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
    from ssgear.engine.setup import prepare
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
    """Print the lines of one job."""
    print(f"\n{rows[0].table}: {rows[0].what}")
    for row in rows:
        limit = "" if row.percent_of_limit is None else f"{row.percent_of_limit:9.1f} % of limit"
        line = f"  {row.contender:28}{row.images_per_second:12,.0f} /s{row.ratio:9.2f}x"
        print(line + limit, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Check, time, print, and keep with --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of views in memory")
    parser.add_argument("--workers", type=int, default=2, help="processes that read files")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    rows: list[Row] = []
    torch.set_num_threads(options.threads)
    rates = machine.measure_rates(device, torch.float32)
    try:
        for size in options.sizes:
            rows += (lines := views_in_memory(JOBS[size], rates, device))
            show(lines)
    except WrongResultError as error:
        print(f"benchmark: {error}; nothing more is timed", file=sys.stderr)
        return 1
    for size in options.sizes:
        rows += (lines := views_from_files(JOBS[size], device, options.workers))
        show(lines)
    torch.set_num_threads(threads)
    share = waiting("quick")
    print(f"\nthe quick preset waits for its data {100 * share:.1f} % of the step")
    if options.json:
        about = {**machine.describe(device), "threads_of_views": options.threads}
        table = {**about, "rows": [asdict(row) for row in rows], "quick_waits": share}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
