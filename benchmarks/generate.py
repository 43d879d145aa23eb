"""Time and memory of what `ssgear generate` does beside its generator.

    python -m benchmarks generate               # some minutes
    python -m benchmarks generate --sources 500 --images 100

The stand-in takes --seconds for an image of --side pixels and uses little of the processor. Shares
are of the stand-in's own time within shards; the memory is that of the whole process at its peak,
and above that of one that makes views of a single source.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.common.images import write_files
from benchmarks.common.timing import MIB

SOURCE_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run of the command."""

    images: int
    seconds: float
    """Within shards."""
    generator_s: float
    """Of these in the generator."""
    peak_mib: float

    @property
    def overhead(self) -> float:
        """Share of the generator's time that everything else adds."""
        return self.seconds / max(self.generator_s, 1e-9) - 1


def add_options(parser: Parser) -> None:
    """Add numbers and sizes of images."""
    parser.add_argument("--images", type=count, default=400, help="images that are timed")
    parser.add_argument("--sources", type=count, default=10_000, help="sources for the memory")
    parser.add_argument("--seconds", type=float, default=0.2, help="time of an image")
    parser.add_argument("--side", type=count, default=512, help="pixels of a view")
    parser.add_argument("--format", default="webp", choices=("webp", "jpg"))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; of several rounds the fastest counts."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, num_images in (("one", 1), ("some", options.images), ("all", options.sources)):
            write_files(root / name, num_images, SOURCE_SIDE)
        one = generate(root / "one", root / "store-one", options, seconds=0.0)
        timed = [
            generate(root / "some", root / f"store-{number}", options, seconds=options.seconds)
            for number in range(options.rounds)
        ]
        some = min(timed, key=lambda measured: measured.seconds)
        every = generate(root / "all", root / "store-all", options, seconds=0.0)
    print(
        f"overhead  {some.images} images of {options.side} px at {1000 * options.seconds:.0f} ms: "
        f"{100 * some.overhead:.1f} % ({some.seconds:.1f} s, generator {some.generator_s:.1f} s)"
    )
    print(
        f"memory    {every.images} sources: {every.peak_mib:.0f} MiB at the peak, "
        f"{every.peak_mib - one.peak_mib:.0f} MiB above a run with one source"
    )
    return {"one": one, "overhead": some, "memory": every}


def generate(images: Path, store: Path, options: argparse.Namespace, *, seconds: float) -> Measured:
    """Run the command in a process of its own."""
    command = [
        sys.executable, "-m", "ssgear.generate", "--generator", "benchmarks.stand_in:StandIn",
        "--data.path", images, "--data.test-share", 0, "--output", store, "--side", options.side,
        "--seconds", seconds, "--format", options.format, "--device", options.device,
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(options.threads)} if options.threads else {}
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, env={**os.environ, **threads}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"benchmark: the command ended with status {status}")
    lines = [json.loads(line) for line in (store / "metrics.jsonl").read_text().splitlines()]
    return Measured(
        images=sum(line["images"] for line in lines),
        seconds=sum(line["seconds"] for line in lines),
        generator_s=sum(line["stages"]["stand-in"] for line in lines),
        peak_mib=usage.ru_maxrss * 1024 / MIB,
    )


BENCHMARK = Benchmark("generate", __doc__, measure, add_options, rounds=1, devices=("cpu",))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
