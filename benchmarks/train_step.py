"""Time training steps of GAN + SSL, and of plain GAN training.

Two tables. The joint job of GAN + SSL against the sum of its phases, each timed alone on the same
rows without trainer and loader: what the engine adds. And seconds per 1000 images of plain GAN
training (critic and generator once each) against the same networks in a plain PyTorch loop, and
compiled: each line in a process of its own (benchmarks/gan_row.py), because on few cores compiling
may take longer than anybody waits (`--compile-limit SECONDS`, `--no-compile`); the table says so
then. With the defaults it is done in less than twelve minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.common.training import prepared
from benchmarks.gan_row import BATCH, Step, joint_step, medians
from ssgear.engine.isolate import only
from ssgear.engine.run import Run
from ssgear.engine.runtime import optimizer_of

SECONDS = 30.0
"""Rounds of a comparison begin within these."""
SLOW_CPU_BATCH = 16
"""Images of a step of StyleGAN2 on a CPU."""
COMPILE_LIMIT_S = 100.0
KINDS = ("dcgan", "stylegan2")


def phase_alone(run: Run, name: str) -> Step:
    """Return one step of a phase in a bare loop: loss, backward, optimiser."""
    method = run.method
    phase = next(phase for phase in method.phases if phase.name == name)
    group = run.runtime.groups[phase.group]
    optimizer = optimizer_of(group, run.config.optim)
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    batch = dataclasses.replace(batch, phase=name, progress=0.5)

    def step() -> None:
        with only(group, method.groups):
            method.loss(phase, batch).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_joint(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the joint step and its phases alone, in milliseconds."""
    words = ("--preset", "gan-ssl-quick", "--optim.batch-size", str(BATCH))
    run = prepared(folder / "joint", options.device, *words)
    steps: dict[str, Step] = {"joint": joint_step(run)}
    steps |= {phase.name: phase_alone(run, phase.name) for phase in run.method.phases}
    times = medians(steps, options, SECONDS)
    run.log.close()
    alone = sum(times[p.name] * p.repeat for p in run.method.phases)
    return {"what": "gan-ssl-quick", **times, "sum": alone, "ratio": times["joint"] / alone}


def gan_row(kind: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return a line of the second table; `compiled` is None where that was not done in time."""
    small = kind == "stylegan2" and options.device == "cpu"
    batch = options.batch or (SLOW_CPU_BATCH if small else BATCH)
    limit = 0.0 if options.no_compile else options.compile_limit
    command = [
        sys.executable, "-m", "benchmarks.gan_row", kind, str(size), "--batch", str(batch),
        "--compile-limit", str(limit), "--seconds", str(SECONDS), "--device", options.device,
        "--rounds", str(options.rounds), "--threads", str(torch.get_num_threads()),
    ]  # fmt: skip
    # a session of its own: it ends itself with all compilers where they take too long
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"benchmarks.train_step: {kind} {size} ended with {done.returncode}")
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def show(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    label = f"{row['what']} {row['size']} px, width {row['width']}, batch {row['batch']}"
    if row["compiled"] is not None:
        cell = f"{row['compiled']:.2f} (compiled in {row['compile_s']:.0f} s)"
    elif row["compile_limit_s"]:
        cell = f"compile did not finish within {row['compile_limit_s']:.0f} s"
    else:
        cell = "not asked for"
    ratio = row["plain"] / row["eager"]
    return f"{label:40} {row['eager']:8.2f} {row['plain']:8.2f} {ratio:12.2f}   {cell}"


def add_options(parser: Parser) -> None:
    """Add what is trained, and how long a compiler may take."""
    add = parser.add_argument
    add("--what", choices=["gan"], default="gan")
    add("--sizes", type=count, nargs="+", default=[32, 64])
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--batch", type=count, help=f"by default {BATCH}, StyleGAN2 on a CPU {SLOW_CPU_BATCH}")
    add("--compile-limit", type=float, default=COMPILE_LIMIT_S, metavar="SECONDS")
    add("--no-compile", action="store_true")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        joint = measure_joint(Path(name), options)
    print(
        f"one step of {joint['what']}: {joint['joint']:.0f} ms; its phases alone "
        + ", ".join(f"{p} {joint[p]:.0f}" for p in ("critic", "generator", "encoder"))
        + f", together {joint['sum']:.0f} ms: ratio {joint['ratio']:.3f}",
        flush=True,
    )
    print(f"{'s / 1000 images':40} {'eager':>8} {'plain':>8} {'plain/eager':>12}   compiled")
    rows = []
    for kind in options.kinds:
        for size in options.sizes:
            rows.append(gan_row(kind, size, options))
            print(show(rows[-1]), flush=True)
    return {"joint": joint, "gan": rows}


BENCHMARK = Benchmark("train_step", __doc__, measure, add_options, rounds=12)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
