"""Values of options: what a type takes, JSON and words of a command line to Python, and back.

`convert` brings a value of a file or preset to a field's type, `from_words` the words of a command
line. The types are bool, int, float, str, Path, Literal, Enum (by the names of its members), tuples
and lists of these, and unions. What does not fit is refused in one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard, Union

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
NUMBERS: Mapping[object, Callable[[str], float]] = {int: int, float: float}
BOOLS = {"true": True, "false": False}


def members(kind: object) -> tuple[object, ...]:
    """Return the alternatives of a union, or the type itself."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def choices(kind: object) -> tuple[object, ...]:
    """Return the values of a `Literal`, the names of an Enum; none for another type."""
    if _is_enum(kind):
        return tuple(kind.__members__)
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _is_enum(kind: object) -> TypeGuard[type[enum.Enum]]:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def is_tuple(kind: object) -> bool:
    """Whether a type is `tuple[...]` or `list[...]`."""
    return typing.get_origin(kind) in (tuple, list)


def items_of(kind: object) -> tuple[object, ...]:
    """Return the types of the items of a tuple or list; `...` last where their number is free."""
    items = typing.get_args(kind)
    return (*items, ...) if typing.get_origin(kind) is list else items


def expected(kind: object) -> str:
    """Return what a type takes, in words: "a whole number or None"."""
    alternatives = members(kind)
    if len(alternatives) > 1:
        return " or ".join(expected(each) for each in alternatives)
    if choices(kind):
        return "one of " + ", ".join(str(choice) for choice in choices(kind))
    if is_tuple(kind):
        items = items_of(kind)
        what = LISTS.get(items[0], "values")
        return f"a list of {what}" if items[-1] is ... else f"a list of {len(items)} {what}"
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def mismatch(where: str, value: object, kind: object) -> ConfigError:
    """Say that a value is not what its type takes; `where` names option or file and key."""
    near = did_you_mean(str(value), [str(choice) for choice in choices(kind)])
    return ConfigError(f"{where}: {value!r} is not {expected(kind)}{near}")


def convert(value: object, kind: object, where: str) -> Any:
    """Return a JSON value as a field's type; one that does not fit is an error at `where`."""
    fits, result = _fit(value, kind)
    if not fits:
        raise mismatch(where, value, kind)
    return result


def _fit(value: object, kind: object) -> tuple[bool, object]:
    """Return whether a type takes a JSON value, and what it makes of it."""
    fitting = (result for fits, result in (_as_one(value, each) for each in members(kind)) if fits)
    return next(((True, result) for result in fitting), (False, None))


def _as_one(value: object, kind: object) -> tuple[bool, object]:
    if _is_enum(kind):
        name = value.name if isinstance(value, kind) else value
        return name in choices(kind), kind.__members__.get(str(name))
    if choices(kind):
        return value in choices(kind), value
    if is_tuple(kind):
        return _as_tuple(value, kind)
    if kind in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False, None
        if kind is int:
            return isinstance(value, int), value
        return math.isfinite(value), float(value)
    if kind is Path:
        return isinstance(value, str | Path) and str(value) != "", Path(str(value)).expanduser()
    plain_type = typing.get_origin(kind) or kind
    return isinstance(plain_type, type) and isinstance(value, plain_type), value


def _as_tuple(value: object, kind: object) -> tuple[bool, object]:
    kinds = _items(kind, len(value)) if isinstance(value, list | tuple) else ()
    if not isinstance(value, list | tuple) or len(kinds) != len(value):
        return False, None
    parts = [_fit(part, item) for part, item in zip(value, kinds, strict=True)]
    return all(fits for fits, _ in parts), _gathered(kind, [result for _, result in parts])


def _gathered(kind: object, values: list[object]) -> object:
    return values if typing.get_origin(kind) is list else tuple(values)


def _items(kind: object, count: int) -> Sequence[object]:
    """Return the types of a tuple's items, `count` of them where their number is free."""
    items = items_of(kind)
    return [items[0]] * count if items[-1] is ... else items


def plain(value: object) -> Any:
    """Return a value as JSON knows it: dataclasses as objects, paths as text, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def from_words(words: Sequence[str], kind: object, flag: str) -> object:
    """Return the words of an option as its type's value; what does not fit is an error."""
    if not _takes_words(kind):
        raise ConfigError(f"{flag}: cannot be set by an option (its type is {kind})")
    _check_count(words, kind, flag)
    if len(words) == 1:
        fits, value = _read(words[0], kind)
        if fits:
            return value
    for member in filter(is_tuple, members(kind)):
        items = _items(member, len(words))
        parts = [_read(word, item) for word, item in zip(words, items, strict=False)]
        if len(items) == len(words) and all(fits for fits, _ in parts):
            return _gathered(member, [value for _, value in parts])
    items = _items(kind, len(words)) if is_tuple(kind) else [kind] * len(words)
    for word, item in zip(words, items, strict=True):
        if not _read(word, item)[0]:
            raise mismatch(flag, word, item)
    raise mismatch(flag, " ".join(words), kind)


def _takes_words(kind: object) -> bool:
    """Whether words can say a value of this type; those of a mapping, say, cannot."""
    if len(members(kind)) > 1:
        return all(map(_takes_words, members(kind)))
    if is_tuple(kind):
        return all(
            item is ... or (_takes_words(item) and not is_tuple(item)) for item in items_of(kind)
        )
    return bool(choices(kind)) or kind in NAMES


def _check_count(words: Sequence[str], kind: object, flag: str) -> None:
    counts = {_num_words(each) for each in members(kind)}
    count = counts.pop() if len(counts) == 1 else None
    if not words:
        raise ConfigError(f"{flag}: a value is missing; it takes {expected(kind)}")
    if count not in (None, len(words)):
        takes = "one value" if count == 1 else f"{count} values"
        raise ConfigError(f"{flag}: takes {takes}, {len(words)} were given: {' '.join(words)}")


def _num_words(kind: object) -> int | None:
    """Return how many words a type takes; None where that is not fixed."""
    if not is_tuple(kind):
        return 1
    items = items_of(kind)
    return None if items[-1] is ... else len(items)


def _read(word: str, kind: object) -> tuple[bool, object]:
    """Return whether a type takes a word, and what it makes of it."""
    # None before others: any word is a path
    for member in sorted(members(kind), key=lambda each: each is not type(None)):
        fits, value = _as_one(_json_of(word, member), member)
        if fits and word:
            return True, value
    return False, None


def _json_of(word: str, kind: object) -> object:
    """Return a word as JSON holds a value of this type; a word that is none stays a text."""
    if kind in NUMBERS:
        with contextlib.suppress(ValueError):
            return NUMBERS[kind](word)
    if kind is bool:
        return BOOLS.get(word.lower(), word)
    if kind is type(None):
        return None if word == "None" else word
    return {str(choice): choice for choice in choices(kind)}.get(word, word)
