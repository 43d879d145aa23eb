"""Words of a command line, looked at before tyro parses them: a mistake is told in one line.

`--x v` and `--x=v`, `_` and `-`, `--flag`, `--no-flag` and `--flag True` are all the same here. The
`--local_rank` that launchers put in front is dropped. An option given twice counts as last given.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from ssgear.config.options import Option, nearest
from ssgear.config.values import FALSE, expected, mismatch, refusal, takes
from ssgear.errors import ConfigError

T = TypeVar("T")
ALL = "--method NAME --help"


@dataclass(frozen=True, kw_only=True)
class Given:
    """One option of a command line."""

    flag: str
    """As it was typed, without its value: `--optim.batch_size`."""
    key: str
    """Dotted name, `optim.batch_size`."""
    words: tuple[str, ...]
    """Its values."""


def read(argv: Sequence[str]) -> tuple[list[Given], bool]:
    """Return the options that were given, and whether help was asked for."""
    given: list[Given] = []
    for word in argv:
        if word in ("-h", "--help"):
            given.append(Given(flag=word, key="help", words=()))
        elif _is_option(word):
            flag, equals, value = word.partition("=")
            key = flag.lstrip("-").replace("-", "_")
            given.append(Given(flag=flag, key=key, words=(value,) if equals else ()))
        elif given:
            given[-1] = replace(given[-1], words=(*given[-1].words, word))
        else:
            path = f" (did you mean --data.path {word}?)" if Path(word).exists() else ""
            raise ConfigError(
                f"{word}: is no option{path}; options start with -- (--help lists them)"
            )
    wanted = any(each.key == "help" for each in given)
    return [each for each in given if each.key not in ("help", "local_rank")], wanted


def _is_option(word: str) -> bool:
    """Whether a word starts an option: `--lr` and `-x` do, the value -1e-3 does not."""
    return word.startswith("--") or (word[:1] == "-" and word[1:2].isalpha())


def check(
    given: Iterable[Given],
    options: Mapping[str, Option],
    whose: str = "option",
    listing: str = ALL,
) -> list[Given]:
    """Refuse names, counts and values that no option takes; flags lose their True or False.

    `listing` is what prints every option.
    """
    table = {option.flag[2:].replace("-", "_"): option for option in options.values()}
    return [_check_one(each, table, options.values(), whose, listing) for each in given]


def _check_one(
    each: Given,
    table: Mapping[str, Option],
    options: Collection[Option],
    whose: str,
    listing: str,
) -> Given:
    option = table.get(each.key)
    if option is not None and option.type is bool:
        return _flag(each, option)
    if option is not None:
        _check_words(each, option)
        words = each.words
        if Path in (option.type, *get_args(option.type)):  # no shell expands --output=~/runs
            words = tuple(str(Path(word).expanduser()) for word in words)
        return replace(each, flag=option.flag, key=option.key, words=words)
    section, dot, leaf = each.key.rpartition(".")
    positive = table.get(section + dot + leaf.removeprefix("no_"))
    if leaf.startswith("no_") and positive is not None and positive.type is bool:
        if each.words:
            raise ConfigError(f"{each.flag}: takes no value, {each.words[0]!r} was given")
        return _switch(positive, on=False)
    near = nearest(each.key, options)
    hint = f" (did you mean {near.flag}?)" if near else f"; {listing} lists every option"
    raise ConfigError(f"{each.flag}: unknown {whose}{hint}")


def _flag(each: Given, option: Option) -> Given:
    if not each.words:
        return _switch(option, on=True)
    _check_words(each, option)
    return _switch(option, on=each.words[0].lower() != FALSE)


def _switch(option: Option, *, on: bool) -> Given:
    section, dot, leaf = option.flag[2:].rpartition(".")
    flag = option.flag if on else f"--{section}{dot}no-{leaf}"
    return Given(flag=flag, key=option.key, words=())


def _check_words(each: Given, option: Option) -> None:
    count, words = takes(option.type), each.words
    if not words and count != 0:
        raise ConfigError(f"{each.flag}: a value is missing; it takes {expected(option.type)}")
    if count is not None and len(words) != count:
        said = "one value" if count == 1 else f"{count} values"
        raise ConfigError(f"{each.flag}: takes {said}, {len(words)} were given: {' '.join(words)}")
    wrong = refusal(words, option.type)
    if wrong is not None:
        raise mismatch(each.flag, *wrong)


def words_for_tyro(given: Iterable[Given]) -> list[str]:
    """Return a command line that says the same, each option once."""
    last = {each.key: each for each in given}
    words: list[str] = []
    for each in last.values():
        if len(each.words) == 1:
            words.append(f"{each.flag}={each.words[0]}")  # a value may start with a hyphen
        else:
            words += [each.flag, *each.words]
    return words


def parse(
    kind: type[T], words: Sequence[str], *, prog: str, description: str, default: T | None = None
) -> T:
    """Read checked words into a dataclass by tyro; what it refuses is told in one line."""
    import tyro

    complaint = io.StringIO()
    base: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            found: T = tyro.cli(kind, args=list(words), prog=prog, description=description, **base)
            return found
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise ConfigError(" ".join(complaint.getvalue().split())) from None
