"""`python -m ssgear.train`: argv and ds.json -> Config -> Trainer.run -> report.

The last line on standard output is the path of the report. A user's mistake is one line on standard
error and exit status 2; a run that a signal stopped was saved and says how to continue it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ssgear.config import cli
from ssgear.errors import SsgearError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        launch = cli.parse(list(sys.argv[1:] if argv is None else argv))
        if launch.dry_run:
            print(cli.to_json(launch.config))
            return 0
        return train(launch)
    except SsgearError as error:
        print(f"ssgear: {error}", file=sys.stderr)
        return error.exit_status


def train(launch: cli.Launch) -> int:
    """Train, evaluate and report; the heavy imports happen here."""
    from ssgear import distributed, watch
    from ssgear.engine.setup import prepare
    from ssgear.engine.trainer import Trainer

    try:
        run = prepare(launch)
        readings = watch.Readings()
        callbacks = [
            readings, watch.Export(), watch.FinalFigures(readings), watch.Report(readings)
        ]  # fmt: skip
        Trainer(run, callbacks).run()
        if run.world.is_main:
            print(run.results["report"])
        return 0
    finally:
        distributed.shut_down()


if __name__ == "__main__":
    sys.exit(main())
