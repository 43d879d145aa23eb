"""Settings of a run as JSON and back, and what of them a resumed run may change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssgear.config.files import read_object
from ssgear.config.layers import build, layer_of
from ssgear.config.schema import Config
from ssgear.config.values import plain

RESUMABLE = (
    "log.",
    "checkpoint.",
    "eval.",
    "output",
    "data.workers",
    "data.cache",
    "data.max_bad_share",
    "engine.keep_memory",
    "engine.threads",
    "engine.timeout_s",
)
"""Keys, or their beginnings, that may change when a run is resumed; `optim.max_steps` may grow."""


def dump(config: Config) -> dict[str, Any]:
    """Return settings as a nested mapping that JSON can hold."""
    settings: dict[str, Any] = plain(config)
    return settings


def to_json(config: Config) -> str:
    """Return settings as JSON; `--config` takes it back."""
    return json.dumps(dump(config), indent=2)


def load(mapping: Mapping[str, object], where: str = "settings") -> Config:
    """Return the settings of a mapping of nested or dotted keys; `where` names it in errors."""
    return build([layer_of(mapping, where)])


def load_file(path: Path) -> Config:
    """Return the settings of a JSON file."""
    return load(read_object(path), str(path))


def has_settings(run: Path) -> bool:
    """Whether the settings of a run are there."""
    return _settings(run).is_file()


def settings_of(run: Path) -> Config:
    """Return the settings of a run, a directory or a file in it."""
    return load_file(_settings(run))


def _settings(run: Path) -> Path:
    return (run if run.is_dir() else run.parent) / "config.json"


def differences(before: Config, now: Config) -> list[str]:
    """Return the fields that keep a run from being resumed, each as `optim.lr (0.4, now 0.1)`."""
    old, new = _leaves(dump(before)), _leaves(dump(now))
    return [
        f"{key} ({old.get(key)}, now {new.get(key)})"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
        and not key.startswith(RESUMABLE)
        and not _grows(key, old.get(key), new.get(key))
        and not _both_read_files(key, old.get(key), new.get(key))
    ]


def _grows(key: str, old: object, new: object) -> bool:
    grows = isinstance(old, int) and (new is None or (isinstance(new, int) and new > old))
    return grows and key == "optim.max_steps"


def _both_read_files(key: str, old: object, new: object) -> bool:
    """Whether one engine that reads files takes over from another: they number lost files alike."""
    return key == "data.loader" and {old, new} == {"torch", "dali"}


def _leaves(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in mapping.items():
        found |= (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return found
