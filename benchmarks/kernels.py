"""Check and time the kernels against what others write in their place.

    make bench ARGS="--rows 512 --widths 128"     # python -m benchmarks kernels

Every form is first held to a float64 result; where one is wrong, nothing is timed. The table gives
forward, backward and both, the memory at the peak, and what share of the machine's own limit ours
reaches: the time that the unavoidable products, exponentials or bytes alone would take.
`pytest benchmarks --benchmark-only` walks the same inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, table
from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.common.machine import Rates
from benchmarks.common.plot import plot_nt_xent
from benchmarks.common.timing import Row, compare
from benchmarks.common.workloads import Workload
from benchmarks.gradient_penalty import SIZES, check_gradient_penalty, gradient_penalty_workload
from benchmarks.nt_xent import check_nt_xent, nt_xent_workload
from ssgear.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = ("nt_xent", "gradient_penalty")
ROWS = {"cpu": [512, 2048, 8192], "cuda": [4096, 16384, 65536]}
WIDTHS = {"cpu": [128], "cuda": [64, 128, 256, 512]}
COLUMNS = {
    "forward ms": "{0.timing.forward_ms:.3f}",
    "backward ms": "{0.timing.backward_ms:.3f}",
    "both ms": "{0.timing.both_ms:.3f}",
    "of limit": "{0.percent_of_limit:.0f} %",
    "peak MB": "{0.timing.peak_mb:.0f}",
    "over ours": "{0.ratio:.2f}x",
}


def rows_of(
    workload: Workload, rates: Mapping[str, Rates], options: argparse.Namespace
) -> list[Row]:
    """Check, then time all contenders of a workload."""
    workload.check()
    dtype = str(workload.dtype).removeprefix("torch.")
    timings = compare(workload.contenders, workload.inputs, options.device, options.rounds)
    copying = machine.copy_rate(workload.inputs[0].nbytes, options.device)
    limit = replace(rates[dtype], bytes=copying).milliseconds(workload.cost)
    return [
        Row(
            kernel=workload.kernel,
            size=workload.size,
            dtype=dtype,
            contender=name,
            timing=timing,
            ratio=timing.both_ms / timings[workload.ours].both_ms,
            cost=workload.cost,
            limit_ms=limit,
            percent_of_limit=100 * limit / timing.both_ms,
        )
        for name, timing in timings.items()
    ]


def show(rows: list[Row]) -> None:
    """Print the lines of one workload."""
    first = rows[0]
    cost = first.cost
    title = (
        f"{first.kernel} {first.size} {first.dtype}: {cost.flop / 1e9:.3g} GFLOP, "
        f"{cost.exps / 1e6:.3g} M exp, {cost.bytes / 1e6:.3g} MB; limit {first.limit_ms:.3g} ms"
    )
    table.show(title, rows, "{0.contender}", COLUMNS)


def even(text: str) -> int:
    """Read an even number of at least 2."""
    number = count(text)
    if number % 2:
        raise argparse.ArgumentTypeError(f"{text!r}: use an even number, two views of each image")
    return number


def add_options(parser: Parser) -> None:
    """Add which kernels, and the sizes and types of NT-Xent."""
    parser.add_argument("--plot", type=Path, help="draw time and memory of NT-Xent there (SVG)")
    parser.add_argument("--kernels", choices=KERNELS, nargs="+", default=list(KERNELS))
    parser.add_argument("--rows", type=even, nargs="+", help="2N of NT-Xent")
    parser.add_argument("--widths", type=count, nargs="+", help="D of NT-Xent")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["float32", "bfloat16"])


def workloads(options: argparse.Namespace) -> Iterator[Workload]:
    """Yield the chosen ones; a kernel's `CASES` are checked before its first workload."""
    device = options.device
    if "nt_xent" in options.kernels:
        print(f"{check_nt_xent(device)} results of nt_xent agree with float64")
        rows, widths = options.rows or ROWS[device], options.widths or WIDTHS[device]
        for name, width, num_rows in itertools.product(options.dtypes, widths, rows):
            yield nt_xent_workload(device, num_rows, width, DTYPES[name])
    if "gradient_penalty" in options.kernels:
        num_results = check_gradient_penalty(device)
        print(f"\n{num_results} results of gradient_penalty agree with float64")
        for size in SIZES[device]:
            yield gradient_penalty_workload(device, size)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Check, time, print and draw."""
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot: matplotlib is not installed; make bench installs it")
    rows: list[Row] = []
    names = dict.fromkeys(("float32", *options.dtypes))
    rates = {name: machine.measure_rates(options.device, DTYPES[name]) for name in names}
    for workload in workloads(options):
        rows += (lines := rows_of(workload, rates, options))
        show(lines)
    if options.plot and "nt_xent" in options.kernels:
        plot_nt_xent(rows, machine.describe(options.device), options.plot)
    return {"rates_per_ms": rates, "rows": rows}


BENCHMARK = Benchmark("kernels", __doc__, measure, add_options)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
