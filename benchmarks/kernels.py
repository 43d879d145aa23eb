"""Check and time the kernels: `make bench`, or `python -m benchmarks.kernels [--json FILE]`.

Every form is first held to a float64 result; where one is wrong, nothing is timed. The table gives
forward, backward and both, the memory at the peak, and what share of the machine's own limit ours
reaches: the time that the unavoidable products, exponentials or bytes alone would take.
`pytest benchmarks --benchmark-only` walks the same inputs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks import machine
from benchmarks.gradient_penalty import check_gradient_penalty, gradient_penalty_workloads
from benchmarks.machine import Cost, Rates
from benchmarks.timing import Timing, compare
from benchmarks.workloads import Workload, WrongResultError, check_nt_xent, nt_xent_workloads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = ("nt_xent", "gradient_penalty")
ROWS = {"cpu": [512, 2048, 8192], "cuda": [4096, 16384, 65536]}
WIDTHS = {"cpu": [128], "cuda": [64, 128, 256, 512]}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation on one input."""

    kernel: str
    size: str
    dtype: str
    contender: str
    timing: Timing
    ratio: float
    """Time of this one over the time of ours, forward and backward."""
    cost: Cost
    limit_ms: float
    percent_of_limit: float


def measure(workload: Workload, rates: Rates, device: str) -> list[Row]:
    """Check, then time all contenders of a workload."""
    workload.check()
    timings = compare(workload.contenders, workload.inputs, device)
    own = replace(rates, bytes=machine.copy_rate(workload.inputs[0].nbytes, device))
    limit = own.milliseconds(workload.cost)
    return [
        Row(
            kernel=workload.kernel,
            size=workload.size,
            dtype=str(workload.dtype).removeprefix("torch."),
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
    print(
        f"\n{first.kernel} {first.size} {first.dtype}: {cost.flop / 1e9:.3g} GFLOP, "
        f"{cost.exps / 1e6:.3g} M exp, {cost.bytes / 1e6:.3g} MB; limit {first.limit_ms:.3g} ms"
    )
    heads = ("forward ms", "backward ms", "both ms", "of limit", "peak MB", "over ours")
    print(f"  {'':14}" + "".join(f"{head:>13}" for head in heads))
    for row in rows:
        times = (row.timing.forward_ms, row.timing.backward_ms, row.timing.both_ms)
        cells = [f"{each:.3f}" for each in times]
        cells += [f"{row.percent_of_limit:.0f} %", f"{row.timing.peak_mb:.0f}", f"{row.ratio:.2f}x"]
        print(f"  {row.contender:14}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"benchmark: {message}\n")


def count(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of at least 1")
    return int(text)


def even(text: str) -> int:
    """Read an even number of at least 2."""
    if not text.isdecimal() or int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"{text!r}: use an even number, two views of each image")
    return int(text)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Check and time the kernels.")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--plot", type=Path, help="draw time and memory of NT-Xent there (SVG)")
    parser.add_argument("--threads", type=count, help="CPU threads (PyTorch's own number)")
    parser.add_argument("--kernels", choices=KERNELS, nargs="+", default=list(KERNELS))
    parser.add_argument("--rows", type=even, nargs="+", help="2N of NT-Xent")
    parser.add_argument("--widths", type=count, nargs="+", help="D of NT-Xent")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["float32", "bfloat16"])
    return parser.parse_args()


def workloads(device: str, options: argparse.Namespace) -> Iterator[Workload]:
    """Yield what was asked for; a kernel's `CASES` are checked before its first workload."""
    if "nt_xent" in options.kernels:
        print(f"{check_nt_xent(device)} results of nt_xent agree with float64")
        dtypes = [DTYPES[name] for name in options.dtypes]
        rows, widths = options.rows or ROWS[device], options.widths or WIDTHS[device]
        yield from nt_xent_workloads(device, rows, widths, dtypes)
    if "gradient_penalty" in options.kernels:
        found = check_gradient_penalty(device)
        print(f"\n{found} results of gradient_penalty agree with float64")
        yield from gradient_penalty_workloads(device)


def main() -> int:
    """Check, time, print, keep."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    used = {"float32", *options.dtypes}
    rates = {name: machine.measure_rates(device, DTYPES[name]) for name in used}
    try:
        for workload in workloads(device, options):
            name = str(workload.dtype).removeprefix("torch.")
            rows += (lines := measure(workload, rates[name], device))
            show(lines)
    except WrongResultError as error:
        print(f"benchmark: {error}; nothing more is timed", file=sys.stderr)
        return 1
    about = {
        **machine.describe(device), "rates_per_ms": {k: asdict(v) for k, v in rates.items()},
    }  # fmt: skip
    if options.json:
        table = {**about, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    if options.plot and "nt_xent" in options.kernels:
        from benchmarks.plot import plot_nt_xent

        plot_nt_xent(rows, about, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
