"""A ds.json on its way: the checked file beside the run's settings, and what comes of both.

`optimizer`, `rules` and `zero` hold the rules; each takes a `Draft` and changes it. A `scheduler`
block becomes a function of the step: one loop drives every schedule. Nothing of DeepSpeed or torch
is imported.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ssgear.config.schema import Config
from ssgear.errors import ConfigError

WARMUP = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR")
KINDS = (*WARMUP, "CosineAnnealingLR", "ExponentialLR", "StepLR")


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSchedule:
    """Factor on the peak learning rate at step 0, 1, ...; call it like `ssgear.optim.schedule`.

    DeepSpeed's own three (warm-up then constant, linear, cosine) and three of torch's, each with
    the values that the originals give step by step. What the file leaves to the program ("auto") is
    the run's own length and warm-up.
    """

    kind: str
    """One of `KINDS`."""
    warmup_steps: int | None = None
    """Steps of the warm-up; None: the run's."""
    total_steps: int | None = None
    """Steps until the decay ends; None: the run's."""
    linear: bool = False
    """Warm up linearly and not by the logarithm of the step."""
    start: float = 0.0
    """Factor at the start of the warm-up."""
    end: float = 0.0
    """Factor at the end of a cosine."""
    gamma: float = 0.1
    """Factor from one stage to the next (StepLR, ExponentialLR)."""
    step_size: int = 1
    """Steps of a stage (StepLR)."""

    def __call__(self, step: int, *, total_steps: int, warmup_steps: int) -> float:
        """Return the factor of a step."""
        total = total_steps if self.total_steps is None else self.total_steps
        if self.kind not in WARMUP:
            return self._torch(step, total)
        warmup = max(2, warmup_steps if self.warmup_steps is None else self.warmup_steps)
        return self._deepspeed(step - 1, total, warmup)

    def _deepspeed(self, last: int, total: int, warmup: int) -> float:
        """Return DeepSpeed's factor; its count `last` is one behind the step."""
        if last < 0:
            return 0.0 if self.kind == "WarmupCosineLR" else self.start
        if last < warmup:
            risen = last / warmup if self.linear else math.log(last + 1) / math.log(warmup)
            return self.start + (1 - self.start) * risen
        if self.kind == "WarmupLR":
            return 1.0
        if self.kind == "WarmupDecayLR":
            left = max(0.0, (total - last) / max(1, total - warmup))
            return self.start + (1 - self.start) * left
        share = min(1.0, (last - warmup + 1) / max(1, total - warmup))
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * share)) / 2

    def _torch(self, step: int, total: int) -> float:
        if self.kind == "CosineAnnealingLR":
            return self.end + (1 - self.end) * (1 + math.cos(math.pi * step / total)) / 2
        return float(self.gamma ** (step // self.step_size))


@dataclass
class Draft:
    """A ds.json on its way."""

    raw: dict[str, Any]
    config: Config
    given: frozenset[str]
    world: int
    device: str
    where: str
    has_penalty: bool = False
    cacheable: bool = True
    ema: bool = False
    follower: str | None = None
    ds: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    betas: tuple[float, float] | None = None
    schedule: DeepSpeedSchedule | None = None
    cpu_adam: bool = False

    def error(self, text: str) -> ConfigError:
        """Return an error that names the file."""
        return ConfigError(f"{self.where}: {text}")

    def value(self, key: str) -> Any:
        """Return a top-level value, or None where it is absent or "auto"."""
        value = self.raw.get(key)
        return None if value == "auto" else value

    def whole(self, key: str) -> int | None:
        """Return a top-level whole number, or None where it is absent or "auto"."""
        value = self.value(key)
        return None if value is None else int(value)

    def block(self, key: str) -> dict[str, Any]:
        """Return a top-level block, empty where it is absent or "auto"."""
        value = self.raw.get(key, {})
        return {} if value == "auto" else dict(value)

    def take(self, option: str, value: Any, said: str) -> None:
        """Take a value over into the run's settings; `said` is how the file put it."""
        section, name = option.split(".")
        current = getattr(getattr(self.config, section), name)
        if option in self.given and current != value:
            flag = option.replace("_", "-")
            raise self.error(f"{said} contradicts --{flag} {current}; give one of them")
        self.set(option, value)

    def set(self, option: str, value: Any) -> None:
        """Set one of the run's settings by its dotted name."""
        section, name = option.split(".")
        changed = dataclasses.replace(getattr(self.config, section), **{name: value})
        self.config = dataclasses.replace(self.config, **{section: changed})
