"""The callback that looks at a method's critic, in what every logged step says of it.

It costs nothing: the figures are those of the log. What they mean says
evaluation/generated/critic_health.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ssgear.engine.callbacks import Callback, Reason
from ssgear.engine.run import Run
from ssgear.evaluation.generated.critic_health import (
    WINDOW,
    CriticReading,
    Failure,
    Kind,
    critic_failure,
)
from ssgear.methods.base import CriticGame

START = 0.1
"""Share of the run, from the critic's first step on, in which it may still find its feet."""
_NEEDED = {"critic_loss", "d_real", "d_fake"}
_SAID: dict[Kind, tuple[str, str]] = {
    "blind": (
        "the critic has collapsed, it tells nothing apart",
        "the generator learns nothing from it; try a higher --method.critic-lr, a larger "
        "--method.n-critic or --method.critic-width, or a smaller penalty",
    ),
    "won": (
        "the critic has won",
        "hardly a gradient is left in its loss; try a lower --method.critic-lr, --method.r1-gamma, "
        "or --method.critic-augment diffaugment",
    ),
    "exploded": (
        "the critic has exploded",
        "try a lower --method.critic-lr, and a penalty where there is none",
    ),
}


class CriticWatch(Callback):
    """Warns once where the critic has failed; does nothing where a method logs none."""

    def __init__(self) -> None:
        """Start without readings."""
        self.readings: list[CriticReading] = []
        self.first_step: int | None = None
        self.failed: Kind | None = None
        self.told: list[Kind] = []

    def on_step(self, run: Run) -> None:
        """Read what was logged, and judge once there is enough of it."""
        game = _game(run)
        if game is None or run.figures_step != run.step or not run.figures.keys() >= _NEEDED:
            return
        if self.first_step is None:
            self.first_step = run.step
        if run.step - self.first_step < START * run.total_steps:
            return
        self._take(run.figures)
        self._tell(run, critic_failure(self.readings, game))

    def on_end(self, run: Run, reason: Reason) -> None:
        """Leave the verdict to the summary."""
        if _game(run) is not None and len(self.readings) == WINDOW:
            run.results = run.results.with_generator({"critic": self.failed or "fine"})

    def state_dict(self) -> dict[str, Any]:
        """Return the readings and what was told."""
        readings = [dataclasses.asdict(each) for each in self.readings]
        known = {"first_step": self.first_step, "failed": self.failed, "told": list(self.told)}
        return {"readings": readings, **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.readings = [CriticReading(**each) for each in state["readings"]]
        self.first_step, self.failed = state["first_step"], state["failed"]
        self.told = list(state["told"])

    def _take(self, figures: dict[str, float]) -> None:
        reading = CriticReading(
            loss=figures["critic_loss"],
            d_real=figures["d_real"],
            d_fake=figures["d_fake"],
            penalty=figures.get("penalty", 0.0),
        )
        # a step that was skipped for a gradient that is not finite is told elsewhere
        if all(math.isfinite(value) for value in dataclasses.astuple(reading)):
            self.readings = [*self.readings, reading][-WINDOW:]

    def _tell(self, run: Run, failure: Failure | None) -> None:
        self.failed = None if failure is None else failure.kind
        if failure is None or failure.kind in self.told:
            return
        self.told.append(failure.kind)
        what, hint = _SAID[failure.kind]
        run.log.note(
            run.step, f"{what}: over the last {WINDOW} logged steps {failure.text}; {hint}"
        )


def _game(run: Run) -> CriticGame | None:
    """Return the game of the run's method; None where no critic judges a generator."""
    generator = run.method.generator
    return None if generator is None else generator.game
