"""Train every method and compare: `python -m benchmarks.methods --preset quick --json FILE`.

Each method's own preset, on as many images as the others: an image is a row of a batch, whatever
views a method makes of it. Epochs and warm-up are scaled to that; nothing else of a preset is. Two
hours on two cores for all methods and three seeds, by hand and in pieces: with --json a training
that is in the file is not run again. What follows `--` goes to every training (data, threads).

Overhead is what a step does beside views and encoder: the loader's time and the encoder's forward
and backward passes, replayed alone on the inputs of a recorded step and taking turns with whole
steps, are taken from the step. The rest is projector, loss, momentum copies, queues and optimiser.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.kernels import Parser
from benchmarks.timing import MIB, resident
from ssgear import registry, watch
from ssgear.config import cli, presets
from ssgear.engine.callbacks import Callback, Reason, Run
from ssgear.engine.setup import prepare
from ssgear.engine.trainer import Trainer
from ssgear.errors import ConfigError, SsgearError
from ssgear.models.encoders import Encoder
from ssgear.storage.atomic import write_json

ROUNDS, WARM = 16, 3  # the resident loader makes views of 8 quick steps at once
QUIET = ("--log.no-tensorboard", "--log.no-progress", "--eval.every", "0", "--engine.threads")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    method: str
    seed: int
    preset: str
    """Last part of the preset's name."""
    images: int
    """How many are to be seen."""
    options: tuple[str, ...] = ()
    """Further ones of `ssgear.train`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of it."""

    method: str
    seed: int
    images: int
    """Seen: those asked for, to the nearest whole epoch."""
    epochs: int
    figures: dict[str, float]
    """Of the trained encoder, shares in [0, 1]."""
    untrained: dict[str, float]
    """The same of the encoder that it began with."""
    images_per_second: float
    """Median over the log."""
    peak_mb: float
    """Most memory while training: of the process on a CPU, allocated by torch on a GPU."""
    minutes: float
    """From the command to the figures."""
    step_ms: float
    encoder_ms: float
    views_ms: float

    @property
    def overhead(self) -> float:
        """Return the share of a step that neither the encoder nor the views take."""
        return 1 - (self.encoder_ms + self.views_ms) / self.step_ms


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
        readings, peak = watch.Readings(), Peak()
        Trainer(run, (readings, peak, watch.FinalFigures(readings))).run()
        minutes = (time.perf_counter() - start) / 60
        lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        summary = run.results.get("summary", {})
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
    works: list[float] = []
    views: list[float] = []
    encoders: list[float] = []
    for number in range(WARM + ROUNDS):
        trainer._waited = 0.0
        taken = machine.milliseconds(lambda: trainer._step(batches), device)
        alone = machine.milliseconds(lambda: replay(run, calls), device)
        if number >= WARM:
            waited = 1000 * trainer._waited
            works.append(taken - waited)
            views.append(waited)
            encoders.append(alone)
    # views of several steps may be made at once: their mean counts
    waiting = statistics.mean(views)
    return statistics.median(works) + waiting, statistics.median(encoders), waiting


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
    """Make the passes again: forward, and backward where there was a graph."""
    for call in calls:
        with (
            torch.set_grad_enabled(call.differentiated),
            run.runtime.autocast(run.method.phases[-1]),
        ):
            features = call.encoder(call.images)
        if call.differentiated:
            features.sum().backward()
            call.encoder.zero_grad(set_to_none=True)


# the table


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return shares as percent, with the deviation over seeds where there are several."""
    if not values:
        return "-"
    spread = f" +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def table(rows: Sequence[Row]) -> str:
    """Return one line for each method, over its seeds."""
    lines = [
        "| method | linear probe, % | untrained | kNN, % | untrained | images/s | MiB | minutes | "
        "overhead |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row.method for row in rows):
        some = [row for row in rows if row.method == method]
        cells = [method]
        for name in ("linear_probe", "knn"):
            for figures in ([row.figures for row in some], [row.untrained for row in some]):
                cells.append(mean_and_deviation([each[name] for each in figures if name in each]))
        cells += [
            f"{statistics.mean(row.images_per_second for row in some):,.0f}",
            f"{max(row.peak_mb for row in some):.0f}",
            f"{statistics.mean(row.minutes for row in some):.1f}",
            f"{100 * statistics.median(row.overhead for row in some):.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kept(file: Path | None, settings: dict[str, Any]) -> list[Row]:
    """Return the rows of a file of earlier trainings; refuse those of other settings."""
    if file is None or not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    if found.get("settings") != settings:
        raise ConfigError(
            f"--json: {file} holds trainings of {found.get('settings')}, asked for is {settings}; "
            "name another file"
        )
    return [Row(**row) for row in found["rows"]]


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Return the options, and what follows `--`."""
    parser = Parser(description=__doc__.partition("\n")[0])
    own = list(argv[: argv.index("--")] if "--" in argv else argv)
    names = registry.names("methods")
    parser.add_argument("--preset", default=presets.DEFAULT, help="METHOD-PRESET is trained")
    parser.add_argument("--methods", nargs="+", choices=names, default=list(names))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="seen by each; by default those of `quick`")
    parser.add_argument("--json", type=Path, help="keep the results there and continue from there")
    return parser.parse_args(own), tuple(argv[len(own) + 1 :])


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
    settings = {"preset": options.preset, "images": images, "options": list(further)}
    try:
        rows = kept(options.json, settings)
    except ConfigError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    done = {(row.method, row.seed) for row in rows}
    wanted = [(method, seed) for seed in options.seeds for method in options.methods]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    failed = False
    for method, seed in wanted:
        if (method, seed) in done:
            continue
        job = Job(method=method, seed=seed, preset=options.preset, images=images, options=further)
        try:
            rows.append(row := in_a_process(job))
        except SsgearError as error:
            print(f"benchmark: {method}, seed {seed}: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        probe = mean_and_deviation([row.figures.get("linear_probe", float("nan"))])
        print(f"{method}, seed {seed}: linear probe {probe} %, {row.minutes:.1f} min", flush=True)
        if options.json:
            found = {**machine.describe(device), "settings": settings}
            write_json(options.json, {**found, "rows": [asdict(each) for each in rows]})
    shown = [row for row in rows if (row.method, row.seed) in wanted]
    if shown:
        print(f"\n{images:,} images seen by each method, to the nearest whole epoch\n")
        print(table(sorted(shown, key=lambda row: options.methods.index(row.method))))
    return int(failed)


def in_a_process(job: Job) -> Row:
    """Train in a fresh process, so that its memory is its own."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=fresh) as pool:
        return pool.submit(train, job).result()


if __name__ == "__main__":
    sys.exit(main())
