"""Where values come from: presets, files and mappings, each checked as it is laid on the one below.

A layer's settings are dotted keys. Its method's own settings (`method.*`) hold for that method
only: a layer above that names another method leaves them behind.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ssgear import registry
from ssgear.config.options import (
    Dataclass,
    Option,
    flag_of,
    is_section,
    nearest,
    options_for,
    options_of,
)
from ssgear.config.schema import Config
from ssgear.config.values import convert
from ssgear.errors import ConfigError, IdleError, did_you_mean, refusing

S = TypeVar("S", bound=Dataclass)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Settings from one place."""

    where: str
    """The place, for errors: `preset quick`, or the path of a file."""
    method: str | None = None
    """Name of the method, where this layer names one."""
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Dotted key -> value as it was read."""


def layer_of(mapping: Mapping[str, object], where: str) -> Layer:
    """Read a mapping of dotted or nested keys; `method` is a name, or an object of settings."""
    settings: dict[str, object] = {}
    named: list[object] = []
    for key, value in _flatten(mapping):
        if key in ("method", "method_name", "method.name"):
            named += [value] if value is not None else []
        elif key in settings:
            raise ConfigError(f"{where}: {key} is there twice; keep one")
        else:
            settings[key] = value
    names = [name for name in named if isinstance(name, str)]
    for wrong in (name for name in named if not isinstance(name, str)):
        raise ConfigError(f"{where}: method: {wrong!r} is not the name of a method or its settings")
    if len(set(names)) > 1:
        raise ConfigError(f"{where}: names two methods, {' and '.join(names)}; keep one")
    return Layer(where=where, method=names[0] if names else None, settings=settings)


def _flatten(mapping: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in mapping.items():
        key = prefix + str(name).replace("-", "_")
        if isinstance(value, Mapping) and (value or key == "method"):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def build(layers: Sequence[Layer]) -> Config:
    """Lay the layers on each other, lowest first, and build the settings."""
    for layer in layers:
        _check_general(layer)
    name, where, stacked = _stack(layers)
    method = registry.load("methods", name, where)
    options = options_for(method)
    own = [option for option in options.values() if option.key.startswith("method.")]
    values: dict[str, object] = {}
    for key, (value, place) in stacked.items():
        if key.startswith("method.") and key not in options:
            near = _hint(key, own)
            raise ConfigError(f"{place}: {key}: unknown setting of {name}{near}")
        if key in options:  # the name of an empty section is not
            values[key] = convert(value, options[key].type, f"{place}: {key}")

    def placed(error: ConfigError) -> ConfigError:  # a value that its section refuses
        wrong = [key for key in values if str(error).startswith(f"{flag_of(key)}:")]
        return ConfigError(f"{stacked[wrong[0]][1]}: {error}" if wrong else str(error))

    with refusing(ConfigError, placed):
        return _construct(registry.canonical(name), method.Config, values)


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


def _stack(layers: Sequence[Layer]) -> tuple[str, str, dict[str, tuple[object, str]]]:
    """Return the method's name, the place that names it, and every value with its place."""
    name, where = None, "--method"
    values: dict[str, tuple[object, str]] = {}
    for layer in layers:
        if layer.method is not None:
            if name is not None and registry.canonical(layer.method) != registry.canonical(name):
                values = {k: v for k, v in values.items() if not k.startswith("method.")}
            name = layer.method
            where = layer.where if layer.where == "--method" else f"{layer.where}: method"
        values |= {key: (value, layer.where) for key, value in layer.settings.items()}
    return name or Config.method_name, where, values


def over(base: Config, values: Mapping[str, object]) -> Config:
    """Lay what a command line says on settings.

    What a layer below says about a thing that the command line switches off is left behind, as
    another method's settings are; what the command line itself says about it is refused.
    """
    method = base.method
    usual = {field.name: field.default for field in dataclasses.fields(method)}
    while True:
        try:
            return _construct(base.method_name, type(method), values, base, method)
        except IdleError as error:
            if f"method.{error.field}" in values:
                raise
            method = dataclasses.replace(method, **{error.field: usual[error.field]})


def _construct(
    name: str,
    own: type[Any],
    values: Mapping[str, object],
    base: Config | None = None,
    method: object = None,
) -> Config:
    """Build the settings of a run, those of its method over `method`."""

    def of_a_user(error: ValueError) -> ConfigError:  # from a class of their own
        return ConfigError(f"--method: {name}: {error}")

    with refusing(ValueError, of_a_user):
        method = construct(own, values, "method.", method)
    return construct(Config, {**values, "method_name": name, "method": method}, base=base)


def construct(
    kind: type[S], values: Mapping[str, Any], prefix: str = "", base: S | None = None
) -> S:
    """Build a dataclass, and those in it, of values by dotted key over `base` or the defaults."""
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        key, inner = prefix + field.name, hints[field.name]
        if is_section(inner):
            below = getattr(base, field.name, None)
            fields[field.name] = construct(inner, values, f"{key}.", below)
        elif key in values:
            fields[field.name] = values[key]
        elif base is not None:
            fields[field.name] = getattr(base, field.name)
    return kind(**fields)
