"""`python -m ssgear.train`: argv and ds.json -> Config -> Trainer.run -> report.

The last line on standard output is the path of the report. A user's mistake is one line on standard
error and exit status 2; a run that a signal stopped was saved and says how to continue it.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ssgear.command import command, ending_on_signals, number_of
from ssgear.config import cli, runs
from ssgear.errors import (
    StorageError,
    TrainingError,
    refusing,
    refusing_full_disk,
    refusing_lack,
)

if TYPE_CHECKING:
    from ssgear.config.schema import Config
    from ssgear.engine.run import Run


@command(interrupted="interrupted before the first step")
def main(words: list[str]) -> int:
    """Run the command and return its exit status."""
    with ending_on_signals():
        launch = cli.parse(words)
        if not launch.dry_run:
            return train(launch)
        print(runs.to_json(resolved(launch)))
        return 0


def resolved(launch: cli.Launch) -> Config:
    """Return the settings as the run would have them; names and ds.json are checked, not paths."""
    from ssgear.engine.build import resolve

    return resolve(launch)


def train(launch: cli.Launch) -> int:
    """Train, evaluate and report; the heavy imports happen here."""
    from ssgear import callbacks, distributed
    from ssgear.callbacks.samples import check_inception
    from ssgear.engine.build import prepare
    from ssgear.engine.trainer import Stopped, Trainer

    run: Run | None = None

    def stopped(interrupt: KeyboardInterrupt) -> Stopped | None:
        if run is None:
            return None
        return Stopped(
            "interrupted; nothing half-written was left; finish it with: python -m ssgear.train "
            f"--resume {run.directory}",
            number_of(interrupt),
        )

    with (
        ExitStack() as stack,
        refusing_full_disk(_full_disk),
        refusing_lack(lambda lacking: TrainingError(too_large(run, lacking))),
        refusing(KeyboardInterrupt, stopped),
    ):
        stack.callback(distributed.shut_down)
        check_inception(launch.config)
        run = prepare(launch)
        readings, samples = callbacks.Readings(), callbacks.Samples()
        final = callbacks.FinalFigures(readings)
        observers = (
            readings,
            callbacks.Export(),
            samples,
            callbacks.CriticWatch(),
            final,
            callbacks.Report(final, samples),
        )
        Trainer(run, observers).run()
        if run.world.is_main:
            print(run.results.report)
    return 0


def _full_disk(error: OSError) -> StorageError:
    file = f" {error.filename}" if error.filename else ""
    return StorageError(
        f"cannot write{file}: {error.strerror}; make room, then continue with --resume"
    )


def too_large(run: Run | None, lacking: str) -> str:
    """Tell that a run did not fit into memory, and what makes it smaller."""
    if run is None:
        return f"not enough {lacking} to build the run; use a smaller --model.name or --data.size"
    from ssgear.storage.checkpoint import last_saved

    config, method = run.config, run.method
    batch, micro = config.optim.batch_size, config.optim.micro_batch
    ways = [f"a smaller --optim.batch-size (now {batch}), --data.size or --model.name"]
    if config.engine.precision == "float32" and run.device.type == "cuda":
        ways.insert(0, "--engine.precision bf16")
    at_once = min(micro or batch, batch // run.world.size)
    if not method.needs(config.method).whole_batch and at_once > 1:
        ways.insert(0, f"--optim.micro-batch {at_once // 2} (the gradients of the whole batch)")
    return (
        f"step {run.step + 1}: not enough {lacking} for {at_once} images of {run.plan.size} px at "
        f"once; {last_saved(run.directory)}; try {', or '.join(ways)}"
    )


if __name__ == "__main__":
    sys.exit(main())
