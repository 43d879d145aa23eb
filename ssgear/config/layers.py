"""Where values come from: presets, files and mappings, each checked as it is laid on the one below.

A layer's settings are dotted keys. Its method's own settings (`method.*`) hold for that method
only: a layer above that names another method leaves them behind.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssgear import registry
from ssgear.config.options import Option, flag_of, nearest, options_for, options_of
from ssgear.config.schema import Config
from ssgear.config.values import convert
from ssgear.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Settings from one place."""

    where: str
    """The place, for errors: `preset quick`, or the path of a file."""
    method: str | None = None
    """Name of the method, where this layer names one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value as it was read."""


def layer_of(mapping: Mapping[str, Any], where: str) -> Layer:
    """Read a mapping of dotted or nested keys; `method` is a name, or an object of settings."""
    settings: dict[str, Any] = {}
    named: list[Any] = []
    for key, value in _flatten(mapping):
        if key in ("method", "method_name", "method.name"):
            named += [value] if value is not None else []
        elif key in settings:
            raise ConfigError(f"{where}: {key} is there twice; keep one")
        else:
            settings[key] = value
    wrong = next((name for name in named if not isinstance(name, str)), None)
    if wrong is not None:
        raise ConfigError(f"{where}: method: {wrong!r} is not the name of a method or its settings")
    if len(set(named)) > 1:
        raise ConfigError(f"{where}: names two methods, {' and '.join(named)}; keep one")
    return Layer(where=where, method=named[0] if named else None, settings=settings)


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        key = prefix + str(name).replace("-", "_")
        if isinstance(value, Mapping) and (value or key == "method"):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; a file that is none, or has a key twice, is an error that names it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(f"{path}: {key} is there twice; keep one")
            seen[key] = value
        return seen

    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8, so no JSON") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: is no JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds no JSON object; write {{...}} with settings in it")
    return value


def build(layers: Sequence[Layer]) -> Config:
    """Lay the layers on each other, lowest first, and build the settings."""
    for layer in layers:
        _check_general(layer)
    name, where, stacked = _stack(layers)
    method = registry.load("methods", name, where)
    options = options_for(method)
    own = [option for option in options.values() if option.key.startswith("method.")]
    values: dict[str, Any] = {}
    for key, (value, place) in stacked.items():
        if key.startswith("method.") and key not in options:
            near = _hint(key, own)
            raise ConfigError(f"{place}: {key}: unknown setting of {name}{near}")
        if key in options:  # the name of an empty section is not
            values[key] = convert(value, options[key].type, f"{place}: {key}")
    try:
        return _construct(registry.canonical(name), method.Config, values)
    except ConfigError as error:  # a value that its section refuses: say where it stands
        wrong = [key for key in values if str(error).startswith(f"{flag_of(key)}:")]
        raise ConfigError(f"{stacked[wrong[0]][1]}: {error}" if wrong else str(error)) from error


def _check_general(layer: Layer) -> None:
    """Refuse keys that are no setting and values of the wrong type; a method's own wait for it."""
    options = options_of(Config)
    sections = {key.partition(".")[0] for key in options if "." in key}
    for key, value in layer.settings.items():
        place = f"{layer.where}: {key}"
        if key in options:
            convert(value, options[key].type, place)
        elif key in sections:
            if value != {}:
                raise ConfigError(f"{place}: {value!r} is not an object of settings")
        elif not key.startswith("method."):
            empty = value == {}  # of a section, then
            near = did_you_mean(key, sections) if empty else _hint(key, list(options.values()))
            raise ConfigError(f"{place}: unknown key{near}")


def _hint(key: str, options: Collection[Option]) -> str:
    near = nearest(key, options)
    return f" (did you mean {near.key}?)" if near else ""


def _stack(layers: Sequence[Layer]) -> tuple[str, str, dict[str, tuple[Any, str]]]:
    """Return the method's name, the place that names it, and every value with its place."""
    name, where = None, "--method"
    values: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        if layer.method is not None:
            if name is not None and registry.canonical(layer.method) != registry.canonical(name):
                values = {k: v for k, v in values.items() if not k.startswith("method.")}
            name = layer.method
            where = layer.where if layer.where == "--method" else f"{layer.where}: method"
        values |= {key: (value, layer.where) for key, value in layer.settings.items()}
    return name or Config.method_name, where, values


def _construct(name: str, own: type[Any], values: Mapping[str, Any]) -> Config:
    parts = {
        key: _section(kind, f"{key}.", values)
        for key, kind in typing.get_type_hints(Config).items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    general = {key: value for key, value in values.items() if "." not in key}
    try:
        method = _section(own, "method.", values)
    except ValueError as error:  # from a class of the user's own
        raise ConfigError(f"--method: {name}: {error}") from error
    return Config(method_name=name, method=method, **general, **parts)


def _section(kind: type[Any], prefix: str, values: Mapping[str, Any]) -> Any:
    given: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        key, inner = prefix + each.name, hints[each.name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            given[each.name] = _section(inner, f"{key}.", values)
        elif key in values:
            given[each.name] = values[key]
    return kind(**given)
