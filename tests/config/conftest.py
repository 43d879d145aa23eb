"""`resolved(raw, config, argv, ...)` and `refused(message, raw, ...)` for the tests of ds.json."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from ssgear.config.deepspeed import ResolvedDeepSpeed, resolve
from ssgear.config.schema import Config, OptimConfig
from ssgear.errors import ConfigError

ADAMW = Config(optim=OptimConfig(name="adamw", lr=1e-3))


def _options(config: Config, given: dict[str, Any]) -> Config:
    """Set what the command line states."""
    for name, value in given.items():
        section, field = name.split(".")
        changed = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def _resolved(
    raw: dict[str, Any], config: Config = ADAMW, argv: dict[str, Any] | None = None, **kwargs: Any
) -> ResolvedDeepSpeed:
    before = json.dumps(raw)
    result = resolve(
        raw,
        _options(config, argv or {}),
        frozenset(argv or {}),
        world=kwargs.pop("world", 1),
        device=kwargs.pop("device", "cpu"),
        where="ds.json",
        **kwargs,
    )
    assert json.dumps(raw) == before, "the file's settings were changed in place"
    assert '"auto"' not in json.dumps([result.ds, result.overrides])
    assert "gradient_clipping" in result.ds and "stage" in result.ds["zero_optimization"]
    return result


def _refused(message: str, raw: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        _resolved(raw, *args, **kwargs)
    text = str(caught.value)
    assert text.startswith("ds.json: ") and "\n" not in text
    assert re.search(message, text), text


@pytest.fixture
def resolved() -> Any:
    """Resolve a ds.json against a run, with what must hold of every result."""
    return _resolved


@pytest.fixture
def refused() -> Any:
    """Expect an error of one line that names the file and matches."""
    return _refused
