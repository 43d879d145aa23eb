"""Train every method and compare: `python -m benchmarks.methods --preset quick --json FILE`.

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
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.kernels import Parser
from benchmarks.method_rows import Row, keep, kept, mean_and_deviation, own_figures, table
from benchmarks.timing import MIB, resident
from ssgear import registry
from ssgear.callbacks import FinalFigures, Readings
from ssgear.config import cli, presets
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.errors import ConfigError, SsgearError
from ssgear.models.encoders import Encoder

ROUNDS, WARM = 48, 3  # the resident loader makes views of 8 quick steps at once
QUIET = ("--log.no-tensorboard", "--log.no-progress", "--eval.every", "0", "--engine.threads")


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


@dataclass
class Peak(Callback):
    """The most memory between the first and the last step."""

    megabytes: float = 0.0

    def on_start(self, run: Run) -> None:
        """Forget what building the run took."""
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def on_end(self, run: Run, reason: Reason) -> None:
        """Read it before the figures are measured."""
        gpu = run.device.type == "cuda"
        self.megabytes = (torch.cuda.max_memory_allocated() if gpu else resident("VmHWM")) / MIB


def command(job: Job, output: Path) -> list[str]:
    """Return the command line of a training at the preset's own length."""
    name = f"{registry.canonical(job.method)}-{job.preset}"
    known = presets.collect()
    if name not in known and job.preset != presets.DEFAULT:
        raise ConfigError(f"--preset: {job.method} has none that is called {name}")
    chosen = ["--preset", name if name in known else presets.DEFAULT, "--method", job.method]
    threads = str(torch.get_num_threads())
    return [
        *chosen,
        *QUIET,
        threads,
        "--seed",
        str(job.seed),
        "--output",
        str(output),
        *job.options,
    ]


def scaled(job: Job, folder: Path) -> list[str]:
    """Return the command line of a training that sees the images asked for."""
    argv = command(job, folder / "run")
    if job.images is None:
        return argv
    run = prepare(cli.parse([*command(job, folder / "length")]))
    run.log.close()
    optim = run.config.optim
    epochs = max(1, round(job.images / (run.steps_per_epoch * optim.batch_size)))
    warmup = optim.warmup_epochs * epochs / optim.epochs
    return [*argv, "--optim.epochs", str(epochs), "--optim.warmup-epochs", f"{warmup:g}"]


def train(job: Job) -> Row:
    """Train, measure the encoder, and take a step apart."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        run = prepare(cli.parse(scaled(job, Path(name))))
        readings, peak = Readings(), Peak()
        Trainer(run, (readings, peak, FinalFigures(readings))).run()
        minutes = (time.perf_counter() - start) / 60
        lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        summary = run.results.summary
        step_ms, encoder_ms, views_ms = take_apart(run)
    speeds = [line["images_per_second"] for line in found if line["kind"] == "train"]
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


@dataclass(frozen=True)
class Call:
    """One pass through an encoder."""

    encoder: nn.Module
    images: Tensor
    differentiated: bool


def take_apart(run: Run) -> tuple[float, float, float]:
    """Return the milliseconds of a step, and of encoder and views in it.

    The run goes on from its middle for that, and is good for nothing afterwards.
    """
    run.step = run.total_steps // 2
    run.method.train()
    trainer, device = Trainer(run, ()), run.device.type

    def endless() -> Iterator[Any]:
        while True:
            yield from run.loader.epoch(run.config.optim.epochs // 2, 0, trainer._streams)

    batches = endless()
    calls = recorded(run, lambda: trainer._step(batches))
    made = Stopwatch(run.method.seen, device)
    run.method.seen = made  # type: ignore[assignment, method-assign]
    works: list[float] = []
    views: list[float] = []
    encoders: list[float] = []
    for number in range(WARM + ROUNDS):
        trainer._waited = made.milliseconds = 0.0
        taken = machine.milliseconds(lambda: trainer._step(batches), device)
        alone = machine.milliseconds(lambda: replay(run, calls), device)
        if number >= WARM:
            waited = 1000 * trainer._waited + made.milliseconds
            works.append(taken - waited)
            views.append(waited)
            encoders.append(alone)
    # views of several steps may be made at once: their mean counts
    waiting = statistics.mean(views)
    return statistics.median(works) + waiting, statistics.median(encoders), waiting


@dataclass
class Stopwatch:
    """A function, and how long its calls took."""

    function: Callable[..., Any]
    device: str
    milliseconds: float = 0.0

    def __call__(self, *given: Any) -> Any:
        """Call it."""
        found: list[Any] = []
        self.milliseconds += machine.milliseconds(
            lambda: found.append(self.function(*given)), self.device
        )
        return found[0]


def recorded(run: Run, step: Any) -> list[Call]:
    """Return the passes through any encoder that a step makes, those of momentum copies too."""
    calls: list[Call] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append(Call(module, given[0].detach(), torch.is_grad_enabled()))

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
    for call in calls:
        with (
            torch.set_grad_enabled(call.differentiated),
            run.runtime.autocast(run.method.phases[-1]),
        ):
            features = call.encoder(call.images)
        if call.differentiated:
            learned.append(features.sum())
    torch.autograd.backward(learned)
    for call in calls:
        call.encoder.zero_grad(set_to_none=True)


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Return the options, and what follows `--`."""
    parser = Parser(description=__doc__.partition("\n")[0])
    own = list(argv[: argv.index("--")] if "--" in argv else argv)
    names = registry.names("methods")
    parser.add_argument("--preset", default=presets.DEFAULT, help="METHOD-PRESET is trained")
    parser.add_argument("--methods", nargs="+", choices=names, default=list(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--images",
        type=number_or_preset,
        help="seen by each; by default those of `quick`; `preset`: each preset's own number",
    )
    parser.add_argument("--json", type=Path, help="keep the results there and continue from there")
    return parser.parse_args(own), tuple(argv[len(own) + 1 :])


def number_or_preset(word: str) -> int | Literal["preset"]:
    """Read the value of --images."""
    return "preset" if word == "preset" else int(word)


def images_of_quick() -> int:
    """Return how many images the preset `quick` sees."""
    with tempfile.TemporaryDirectory() as name:
        output = ["--log.no-tensorboard", "--output", str(Path(name) / "run")]
        run = prepare(cli.parse(["--preset", presets.DEFAULT, *output]))
        run.log.close()
        return run.total_steps * run.config.optim.batch_size


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not in the file yet, each in a process of its own, and print the table."""
    options, further = arguments(list(sys.argv[1:] if argv is None else argv))
    images = options.images or images_of_quick()
    settings = {
        "preset": options.preset,
        "images": images,
        "options": list(further),
        "threads": torch.get_num_threads(),
    }
    wanted = [(method, seed) for seed in options.seeds for method in options.methods]
    rows: dict[tuple[str, int], Row] = {}
    failed = False
    try:
        for method, seed in wanted:
            rows |= kept(options.json, settings)
            if (method, seed) in rows:
                continue
            seen = None if images == "preset" else images
            job = Job(method=method, seed=seed, preset=options.preset, images=seen, options=further)
            row = trained(job)
            if row is None:
                failed = True
                continue
            rows |= {**kept(options.json, settings), (method, seed): row}
            if options.json:
                keep(options.json, settings, list(rows.values()))
    except ConfigError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    shown = [rows[pair] for pair in wanted if pair in rows]
    if shown:
        shown.sort(key=lambda row: options.methods.index(row.method))
        each = "its preset's" if images == "preset" else f"{images:,}, to the nearest whole epoch,"
        print(f"\n{each} images seen by each method\n")
        print(table(shown))
        if own := own_figures(shown):
            print(f"\n{own}")
    return int(failed)


def trained(job: Job) -> Row | None:
    """Train and say what came of it; None where it failed, so that the others go on."""
    try:
        row = in_a_process(job)
    except SsgearError as error:
        print(f"benchmark: {job.method}, seed {job.seed}: {error}", file=sys.stderr, flush=True)
        return None
    except Exception:  # one that was killed, or a bug: hours of other trainings do not wait for it
        traceback.print_exc()
        print(f"benchmark: {job.method}, seed {job.seed}: failed", file=sys.stderr, flush=True)
        return None
    probe = mean_and_deviation([row.figures.get("linear_probe", float("nan"))])
    told = f"linear probe {probe} %, {row.minutes:.1f} min"
    print(f"{job.method}, seed {job.seed}: {told}", flush=True)
    return row


def in_a_process(job: Job) -> Row:
    """Train in a fresh process, so that its memory is its own."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=fresh) as pool:
        return pool.submit(train, job).result()


if __name__ == "__main__":
    sys.exit(main())
