"""A ds.json on its way: the checked file beside the run's settings, and what comes of both.

`deepspeed_optim`, `deepspeed_rules` and `deepspeed_zero` hold the rules; each takes a `Draft` and
changes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ssgear.config.deepspeed.schedule import DeepSpeedSchedule
from ssgear.config.schema import Config
from ssgear.errors import ConfigError


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
