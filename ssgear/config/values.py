"""Values of options: what a type takes, JSON to Python and back, a line for a value that is none.

`convert` brings a value from a file or preset to a field's type. `refusal` looks at the words of a
command line before tyro parses them, for the types that have a plain name; tyro knows more types
(a union with a list in it, say), and what it refuses is told in its words.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union

from ssgear.errors import ConfigError, did_you_mean

NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
}
LISTS: dict[object, str] = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}
TRUE, FALSE = "true", "false"


def members(kind: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type itself."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def is_tuple(kind: Any) -> bool:
    """Whether a type is `tuple[...]`."""
    return typing.get_origin(kind) is tuple


def expected(kind: Any) -> str:
    """Return what a type takes, in words: "a whole number or None"."""
    alternatives = members(kind)
    if len(alternatives) > 1:
        return " or ".join(expected(each) for each in alternatives)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    if is_tuple(kind):
        items = typing.get_args(kind)
        what = LISTS.get(items[0], "values")
        return f"a list of {what}" if items[-1] is ... else f"a list of {len(items)} {what}"
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def mismatch(where: str, value: object, kind: Any) -> ConfigError:
    """Say that a value is not what its type takes; `where` names option or file and key."""
    choices = [str(c) for each in members(kind) for c in typing.get_args(each) if c is not ...]
    near = did_you_mean(str(value), choices) if typing.get_origin(kind) is Literal else ""
    return ConfigError(f"{where}: {value!r} is not {expected(kind)}{near}")


def convert(value: object, kind: Any, where: str) -> Any:
    """Return a JSON value as a field's type; one that does not fit is an error at `where`."""
    for each in members(kind):
        fits, result = _as_one(value, each, where)
        if fits:
            return result
    raise mismatch(where, value, kind)


def _as_one(value: object, kind: Any, where: str) -> tuple[bool, Any]:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind), value
    if is_tuple(kind):
        return _as_tuple(value, typing.get_args(kind), where)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value), float(value) if number else None  # type: ignore[arg-type]
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind is Path:
        return isinstance(value, str | Path) and str(value) != "", Path(str(value)).expanduser()
    plain_type = typing.get_origin(kind) or kind
    return isinstance(value, plain_type), value


def _as_tuple(value: object, kinds: tuple[Any, ...], where: str) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, None
    each = [kinds[0]] * len(value) if kinds[-1] is ... else list(kinds)
    if len(each) != len(value):
        return False, None
    parts = [_as_one(part, kind, where) for part, kind in zip(value, each, strict=True)]
    return all(fits for fits, _ in parts), tuple(result for _, result in parts)


def plain(value: object) -> Any:
    """Return a value as JSON knows it: dataclasses as objects, paths as text, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def takes(kind: Any) -> int | None:
    """Return how many words an option takes; None where that is not fixed."""
    counts = {_takes_one(each) for each in members(kind)}
    return counts.pop() if len(counts) == 1 else None


def _takes_one(kind: Any) -> int | None:
    if is_tuple(kind):
        items = typing.get_args(kind)
        return None if items[-1] is ... else len(items)
    return 1 if kind in NAMES or typing.get_origin(kind) is Literal else None


def refusal(words: Sequence[str], kind: Any) -> tuple[str, Any] | None:
    """Return the first word that a type cannot take, and what it should be; or None."""
    kinds = [kind] * len(words)
    if is_tuple(kind):
        items = typing.get_args(kind)
        kinds = [items[0]] * len(words) if items[-1] is ... else list(items)
    pairs = zip(words, kinds, strict=True)
    return next(((word, each) for word, each in pairs if not _reads(word, each)), None)


def _reads(word: str, kind: Any) -> bool:
    return any(_reads_one(word, each) for each in members(kind))


def _reads_one(word: str, kind: Any) -> bool:
    if kind in (int, float):
        try:
            return math.isfinite(kind(word))
        except ValueError:
            return False
    if kind is bool:
        return word.lower() in (TRUE, FALSE)
    if kind is type(None):
        return word == "None"
    if typing.get_origin(kind) is Literal:
        return word in [str(choice) for choice in typing.get_args(kind)]
    return word != ""
