"""Train every method for the same images seen, and compare.

    python -m benchmarks methods --preset quick --json FILE

Each method's own preset, on as many images as the others: an image is a row of a batch, whatever
views a method makes of it. Epochs and warm-up are scaled to that; nothing else of a preset is.
With `--images preset` each is trained for as long as its preset says.

Some hours on two cores for all methods and three seeds, by hand and in pieces (--methods, --seeds):
with --json a training that is in the file is not run again, what another piece wrote there
meanwhile is kept, and the table is of all that was asked for. A training that fails is told, and
the rest goes on. What follows `--` goes to every training (its data, say).

Overhead is what a step does beside views and encoder: the loader's time, that of what a method
makes of its views (patches, turns), and the encoder's forward and backward passes, replayed alone
on the inputs of a recorded step and taking turns with whole steps, are taken from the step. The
rest is projector, loss, momentum copies, queues and optimiser.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.common.command import Benchmark, Parser
from benchmarks.common.machine import milliseconds
from benchmarks.common.timing import forget_peak, peak_mb
from benchmarks.common.training import endless_steps, prepared, train_lines
from benchmarks.method_rows import Row, keep, kept, mean_and_deviation, own_figures, table
from ssgear import registry
from ssgear.callbacks import FinalFigures, Readings
from ssgear.config import presets
from ssgear.data.loaders.batch import Batch
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.errors import ConfigError, SsgearError
from ssgear.methods.base import Pretext
from ssgear.models.encoders import Encoder

Call = tuple[nn.Module, Tensor, bool]
"""One pass: an encoder, its images, and whether it had a graph."""
ROUNDS, WARM = 48, 3  # the resident loader makes views of 8 quick steps at once
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    method: str
    seed: int
    preset: str
    """Last part of the preset's name."""
    images: int | None
    """How many are to be seen; None: as many as the preset says."""
    options: tuple[str, ...] = ()
    """Further ones of `ssgear.train`."""
    threads: int = 1
    device: str = "cpu"
    rounds: int = ROUNDS
    """Steps that are taken apart."""


@dataclass
class Peak(Callback):
    """The most memory between the first and the last step."""

    megabytes: float = 0.0

    def on_start(self, run: Run) -> None:
        """Forget what building the run took."""
        forget_peak(run.device.type)

    def on_end(self, run: Run, reason: Reason) -> None:
        """Read it before the figures are measured."""
        self.megabytes = peak_mb(run.device.type)


def words_of(job: Job) -> list[str]:
    """Return the options of a training at the preset's own length."""
    name = f"{registry.canonical(job.method)}-{job.preset}"
    known = presets.collect()
    if name not in known and job.preset != presets.DEFAULT:
        raise ConfigError(f"--preset: {job.method} has none that is called {name}")
    preset = name if name in known else presets.DEFAULT
    fixed = ("--eval.every", "0", "--seed", str(job.seed))
    return ["--preset", preset, "--method", job.method, *fixed, *job.options]


def scaled(job: Job, folder: Path) -> list[str]:
    """Return the options of a training that sees the images asked for."""
    words = words_of(job)
    if job.images is None:
        return words
    run = prepared(folder / "length", job.device, *words)
    run.log.close()
    optim = run.config.optim
    epochs = max(1, round(job.images / (run.steps_per_epoch * optim.batch_size)))
    warmup = optim.warmup_epochs * epochs / optim.epochs
    return [*words, "--optim.epochs", str(epochs), "--optim.warmup-epochs", f"{warmup:g}"]


def train(job: Job) -> Row:
    """Train, measure the encoder, and take a step apart."""
    start = time.perf_counter()
    torch.set_num_threads(job.threads)
    with tempfile.TemporaryDirectory() as name:
        run = prepared(Path(name) / "run", job.device, *scaled(job, Path(name)))
        readings, peak = Readings(), Peak()
        Trainer(run, (readings, peak, FinalFigures(readings))).run()
        minutes = (time.perf_counter() - start) / 60
        speeds = [line["images_per_second"] for line in train_lines(run)]
        summary = run.results.summary
        step_ms, encoder_ms, views_ms = take_apart(run, job.rounds)
    return Row(
        method=job.method,
        seed=job.seed,
        images=run.config.optim.epochs * run.steps_per_epoch * run.config.optim.batch_size,
        epochs=run.config.optim.epochs,
        figures=numbers(summary),
        untrained=numbers(summary.get("baselines", {}).get("untrained", {})),
        images_per_second=statistics.median(speeds),
        peak_mb=peak.megabytes,
        minutes=minutes,
        step_ms=step_ms,
        encoder_ms=encoder_ms,
        views_ms=views_ms,
    )


def numbers(figures: dict[str, Any]) -> dict[str, float]:
    """Return what is a figure of a mapping."""
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def take_apart(run: Run, rounds: int) -> tuple[float, float, float]:
    """Return the milliseconds of a step, and of encoder and views in it.

    The run goes on from its middle for that, and is good for nothing afterwards.
    """
    device = run.device.type
    views = Stopwatch(device)
    pretext = run.method.pretext or Pretext()
    walk, seen = run.loader.epoch, pretext.seen

    def timed_epoch(*args: Any) -> Iterator[Batch]:
        batches = walk(*args)
        # the default ends the loop where the batches end
        return iter(lambda: views.time(next, batches, None), None)

    run.loader.epoch = timed_epoch  # type: ignore[method-assign, assignment]
    pretext.seen = lambda batch: views.time(seen, batch)  # type: ignore[method-assign]
    steps = endless_steps(run, run.total_steps // 2)
    calls = recorded(run, lambda: next(steps))
    times: list[tuple[float, float, float]] = []
    for _ in range(WARM + rounds):
        views.milliseconds = 0.0
        whole = milliseconds(lambda: next(steps), device)
        waited = views.milliseconds
        times.append((whole - waited, milliseconds(lambda: replay(run, calls), device), waited))
    works, encoders, waits = zip(*times[WARM:], strict=True)
    # views of several steps may be made at once: their mean counts
    waiting = statistics.mean(waits)
    return statistics.median(works) + waiting, statistics.median(encoders), waiting


@dataclass
class Stopwatch:
    """How long the calls took that went through it."""

    device: str
    milliseconds: float = 0.0

    def time(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function."""
        results: list[T] = []
        self.milliseconds += milliseconds(lambda: results.append(function(*args)), self.device)
        return results[0]


def recorded(run: Run, step: Callable[[], object]) -> list[Call]:
    """Return the passes through any encoder that a step makes, those of momentum copies too."""
    calls: list[Call] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append((module, inputs[0].detach(), torch.is_grad_enabled()))

    encoders = [module for module in run.method.modules() if isinstance(module, Encoder)]
    hooks = [encoder.register_forward_pre_hook(note) for encoder in encoders]
    step()
    for hook in hooks:
        hook.remove()
    return calls


def replay(run: Run, calls: Sequence[Call]) -> None:
    """Make the passes again: all forward, then backward through those that had a graph.

    In a step too the graphs of all views are there before the first of them is gone through.
    """
    learned: list[Tensor] = []
    for encoder, images, has_graph in calls:
        with torch.set_grad_enabled(has_graph), run.runtime.autocast(run.method.phases[-1]):
            features = encoder(images)
        if has_graph:
            learned.append(features.sum())
    torch.autograd.backward(learned)
    for encoder, *_ in calls:
        encoder.zero_grad(set_to_none=True)


def add_options(parser: Parser) -> None:
    """Add which trainings, and how long."""
    names = registry.names("methods")
    add = parser.add_argument
    add("--preset", default=presets.DEFAULT, help="METHOD-PRESET is trained")
    add("--methods", nargs="+", choices=names, default=list(names))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--images", type=number_or_preset, help="seen by each, or `preset`; None: as `quick`")


def number_or_preset(word: str) -> int | Literal["preset"]:
    """Read the value of --images."""
    return "preset" if word == "preset" else int(word)


def images_of_quick() -> int:
    """Return how many images the preset `quick` sees."""
    with tempfile.TemporaryDirectory() as name:
        run = prepared(Path(name) / "run", "cpu", "--preset", presets.DEFAULT)
        run.log.close()
        return run.total_steps * run.config.optim.batch_size


def measure(options: argparse.Namespace) -> int:
    """Train what is not in the file yet, each in a process of its own, and print the table."""
    threads = torch.get_num_threads()
    images = options.images or images_of_quick()
    seen = None if images == "preset" else images
    settings = {
        "preset": options.preset, "images": images, "options": options.further, "threads": threads,
    }  # fmt: skip
    pairs = [(method, seed) for seed in options.seeds for method in options.methods]
    rows: dict[tuple[str, int], Row] = {}
    has_failed = False
    for method, seed in pairs:
        rows |= kept(options.json, settings)
        if (method, seed) in rows:
            continue
        job = Job(
            method=method,
            seed=seed,
            preset=options.preset,
            images=seen,
            options=tuple(options.further),
            threads=threads,
            device=options.device,
            rounds=options.rounds,
        )
        row = trained(job)
        if row is None:
            has_failed = True
            continue
        rows |= {**kept(options.json, settings), (method, seed): row}
        if options.json:
            keep(options.json, options.device, settings, list(rows.values()))
    shown = [rows[pair] for pair in pairs if pair in rows]
    if shown:
        shown.sort(key=lambda row: options.methods.index(row.method))
        number = f"{seen:,}, to the nearest whole epoch," if seen else "its preset's"
        print(f"\n{number} images seen by each method\n")
        print(table(shown))
        if figures := own_figures(shown):
            print(f"\n{figures}")
    return int(has_failed)


def trained(job: Job) -> Row | None:
    """Train and say what came of it; None where it failed, so that the others go on."""
    name = f"{job.method}, seed {job.seed}"
    try:
        row = in_a_process(job)
    except Exception as error:  # killed, or a bug: hours of other trainings do not wait for it
        if not isinstance(error, SsgearError):
            traceback.print_exc()
        reason = error if isinstance(error, SsgearError) else "failed"
        print(f"benchmark: {name}: {reason}", file=sys.stderr, flush=True)
        return None
    probe = mean_and_deviation([row.figures.get("linear_probe", float("nan"))])
    print(f"{name}: linear probe {probe} %, {row.minutes:.1f} min", flush=True)
    return row


def in_a_process(job: Job) -> Row:
    """Train in a fresh process, so that its memory is its own."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=fresh) as pool:
        return pool.submit(train, job).result()


BENCHMARK = Benchmark("methods", __doc__, measure, add_options, rounds=ROUNDS, passes_on=True)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
