"""Words of a command line as values of options; a mistake is told in one line.

    words, help_wanted = read(["--optim.batch_size", "64"])
    given = check(words, options_of(Config))     # [Given(key="optim.batch_size", value=64, ...)]

`--x v` and `--x=v`, `_` and `-`, `--flag`, `--no-flag` and `--flag True` are all the same here. The
`--local_rank` that launchers put in front is dropped. An option given twice counts as last given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssgear.config.options import Option, nearest
from ssgear.config.values import from_words
from ssgear.errors import ConfigError

ALL = "--method NAME --help"


@dataclass(frozen=True, kw_only=True)
class Words:
    """One option of a command line, as it was typed."""

    flag: str
    """The option without its value: `--optim.batch_size`."""
    key: str
    """Dotted name, `optim.batch_size`."""
    words: tuple[str, ...]
    """Its values."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """One option of a command line, as it was meant."""

    flag: str
    """The option as it was typed: `--optim.batch_size`."""
    key: str
    """Dotted name of the field: `optim.batch_size`."""
    value: object
    """Value of the field's type."""


def read(argv: Sequence[str]) -> tuple[list[Words], bool]:
    """Return the options that were given, and whether help was asked for."""
    options: list[Words] = []
    for word in argv:
        if word in ("-h", "--help"):
            options.append(Words(flag=word, key="help", words=()))
        elif _is_option(word):
            flag, equals, value = word.partition("=")
            key = flag.lstrip("-").replace("-", "_")
            options.append(Words(flag=flag, key=key, words=(value,) if equals else ()))
        elif options:
            options[-1] = replace(options[-1], words=(*options[-1].words, word))
        else:
            path = f" (did you mean --data.path {word}?)" if Path(word).exists() else ""
            raise ConfigError(
                f"{word}: is no option{path}; options start with -- (--help lists them)"
            )
    help_wanted = any(option.key == "help" for option in options)
    return [option for option in options if option.key not in ("help", "local_rank")], help_wanted


def _is_option(word: str) -> bool:
    """Whether a word starts an option: `--lr` and `-x` do, the value -1e-3 does not."""
    return word.startswith("--") or (word[:1] == "-" and word[1:2].isalpha())


def check(
    words: Iterable[Words],
    options: Mapping[str, Option],
    whose: str = "option",
    listing: str = ALL,
) -> list[Given]:
    """Refuse names, counts and values that no option takes, and return the values.

    `listing` is what prints every option.
    """
    table = {option.flag[2:].replace("-", "_"): option for option in options.values()}
    return [_check_one(option, table, options.values(), whose, listing) for option in words]


def _check_one(
    typed: Words,
    table: Mapping[str, Option],
    options: Collection[Option],
    whose: str,
    listing: str,
) -> Given:
    option = table.get(typed.key)
    if option is not None:
        is_switch = option.type is bool and not typed.words
        value = True if is_switch else from_words(typed.words, option.type, typed.flag)
        return Given(flag=typed.flag, key=option.key, value=value)
    section, dot, leaf = typed.key.rpartition(".")
    option = table.get(section + dot + leaf.removeprefix("no_"))
    if leaf.startswith("no_") and option is not None and option.type is bool:
        if typed.words:
            raise ConfigError(f"{typed.flag}: takes no value, {typed.words[0]!r} was given")
        return Given(flag=typed.flag, key=option.key, value=False)
    near = nearest(typed.key, options)
    hint = f" (did you mean {near.flag}?)" if near else f"; {listing} lists every option"
    raise ConfigError(f"{typed.flag}: unknown {whose}{hint}")


def values_of(given: Iterable[Given]) -> dict[str, object]:
    """Return the values by dotted key, of an option given twice the last one."""
    return {option.key: option.value for option in given}
