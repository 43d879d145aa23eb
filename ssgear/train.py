"""`python -m ssgear.train`: argv and ds.json -> Config -> Trainer.run -> report.

The last line on standard output is the path of the report. A user's mistake is one line on standard
error and exit status 2; a run that a signal stopped was saved and says how to continue it.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from ssgear.config import cli
from ssgear.config.pipe import ending_with_the_reader
from ssgear.config.schema import Config
from ssgear.errors import (
    OUT_OF_SPACE,
    Interrupted,
    SsgearError,
    StorageError,
    TrainingError,
    lacking_memory,
)

if TYPE_CHECKING:
    from ssgear.engine.run import Run


@ending_with_the_reader()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    with ending_on_signals():
        try:
            launch = cli.parse(list(sys.argv[1:] if argv is None else argv))
            if launch.dry_run:
                print(cli.to_json(resolved(launch)))
                return 0
            return train(launch)
        except SsgearError as error:
            print(f"ssgear: {error}", file=sys.stderr)
            return error.exit_status
        except KeyboardInterrupt as interrupt:
            print("ssgear: interrupted before the first step", file=sys.stderr)
            return 128 + int(getattr(interrupt, "number", signal.SIGINT))


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted` where the trainer does not listen itself."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only there can signals be listened to
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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

    run = None
    try:
        check_inception(launch.config)
        run = prepare(launch)
        readings, samples = callbacks.Readings(), callbacks.Samples()
        watching = (
            readings,
            callbacks.Export(),
            samples,
            callbacks.CriticWatch(),
            callbacks.FinalFigures(readings),
            callbacks.Report(readings, samples),
        )
        Trainer(run, watching).run()
        if run.world.is_main:
            print(run.results.report)
        return 0
    except KeyboardInterrupt as interrupt:
        if run is None:
            raise
        raise Stopped(
            "interrupted; nothing half-written was left; finish it with: python -m ssgear.train "
            f"--resume {run.directory}",
            int(getattr(interrupt, "number", signal.SIGINT)),
        ) from None
    except (RuntimeError, MemoryError) as error:
        lacking = lacking_memory(error)
        if lacking is None:
            raise
        raise TrainingError(too_large(run, lacking)) from None
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        what = f" {error.filename}" if error.filename else ""
        raise StorageError(
            f"cannot write{what}: {error.strerror}; make room, then continue with --resume"
        ) from None
    finally:
        distributed.shut_down()


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
    if method.cacheable and at_once > 1:
        ways.insert(0, f"--optim.micro-batch {at_once // 2} (the gradients of the whole batch)")
    return (
        f"step {run.step + 1}: not enough {lacking} for {at_once} images of {run.plan.size} px at "
        f"once; {last_saved(run.directory)}; try {', or '.join(ways)}"
    )


if __name__ == "__main__":
    sys.exit(main())
