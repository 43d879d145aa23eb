"""Peak memory of measures on features that do not fit in it: a sparse file, a process for each.

The file holds random numbers in a few places and zeros elsewhere, which take no space on the disk
and as much arithmetic. `python -m benchmarks evaluation --large` runs this.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.table import show
from benchmarks.common.timing import peak_mb
from ssgear.errors import SsgearError
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.probes.knn import nearest
from ssgear.evaluation.probes.sgd import sgd_probe
from ssgear.evaluation.similarity.cka import cka

LIMIT_GB = 2.0
PLACES = 16
"""Where random numbers are."""
PLACE_ROWS = 500
QUERIES = 1000
CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class LargeRow:
    """One measure in a process of its own."""

    what: str
    size: str
    seconds: float
    peak_gb: float
    """Most resident memory of the process, in units of 10^9 bytes."""


def write_sparse(path: Path, rows: int, width: int, seed: int) -> None:
    """Write features [rows, width] float32, most of them zeros without space on the disk."""
    generator = np.random.default_rng(seed)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in np.linspace(0, max(0, rows - PLACE_ROWS), PLACES).astype(int):
        block = file[start : start + PLACE_ROWS]
        block[:] = generator.standard_normal(block.shape, dtype=np.float32)
    file.flush()


def run_knn(a: FeatureFile, b: FeatureFile) -> None:
    nearest(b[:QUERIES], a, 200)


def run_cka(a: FeatureFile, b: FeatureFile) -> None:
    cka(a, b)


def run_sgd(a: FeatureFile, b: FeatureFile) -> None:
    labels = torch.arange(len(a)) % CLASSES
    sgd_probe(a, labels, b[:QUERIES], labels[:QUERIES], epochs=1)


TASKS: dict[str, tuple[str, Callable[[FeatureFile, FeatureFile], None]]] = {
    "knn": (f"kNN of {QUERIES:,} queries", run_knn),
    "sgd": ("SGD probe, one pass", run_sgd),
    "cka": ("CKA of two files", run_cka),
}


def measure_large(
    rows: int, width: int, threads: int | None, tasks: Sequence[str] | None
) -> list[LargeRow]:
    """Measure tasks (by default all), each in a process of its own, and print the table."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(("a.npy", "b.npy")):
            write_sparse(Path(folder, name), rows, width, seed=number)
        for task in [task for task in TASKS if not tasks or task in tasks]:
            what = TASKS[task][0]
            command = [sys.executable, "-m", __name__, task, folder, str(threads or 0)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                raise SsgearError(f"{what}: {reason[-1]}")
            figures = json.loads(done.stdout)
            results.append(LargeRow(what=what, size=f"{rows:,} x {width:,}", **figures))
    columns = {
        "seconds": "{0.seconds:.0f}",
        "peak": "{0.peak_gb:.2f} GB",
        "limit": f"{LIMIT_GB:g} GB",
    }
    show("Features in a sparse file", results, "{0.what}, {0.size}", columns)
    return results


def main(task: str, folder: str, threads: int) -> None:
    """Run one task and print its seconds and its peak memory."""
    if threads:
        torch.set_num_threads(threads)
    files = [FeatureFile(Path(folder, name)) for name in ("a.npy", "b.npy")]
    start = time.perf_counter()
    TASKS[task][1](*files)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_gb": peak_mb("cpu") * 2**20 / 1e9}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
