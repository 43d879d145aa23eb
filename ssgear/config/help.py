"""The two helps: common options, presets and methods; or every option with its value.

`show` is what `--help` alone prints, `show_all` what it prints with a method. Both are plain text,
as wide as the terminal. No torch is imported for them.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from ssgear import registry
from ssgear.config import presets
from ssgear.config.options import Dataclass, Option, options_of
from ssgear.config.schema import Config
from ssgear.config.values import choices, is_tuple, items_of, members, plain

USAGE = "python -m ssgear.train [--preset NAME] [--section.option VALUE ...]"
EXAMPLES = {
    "python -m ssgear.train": "the embedded images, on this machine, in minutes",
    "python -m ssgear.train --data.path DIR": "the same on a folder of your own images",
    "torchrun --nproc-per-node 8 -m ssgear.train ...": "one process for each GPU",
    "python -m ssgear.train --resume DIR": "continue a run, bit for bit",
}
COMMON = {
    "Run": ("preset", "method_name", "config", "output", "resume", "seed", "deepspeed", "dry_run"),
    "Images": ("data.source", "data.path", "data.size", "data.augmentation", "data.loader"),
    "Encoder": ("model.name", "model.norm"),
    "Optimisation": (
        "optim.name",
        "optim.lr",
        "optim.batch_size",
        "optim.micro_batch",
        "optim.epochs",
        "optim.max_steps",
    ),
    "Engine": ("engine.device", "engine.precision", "engine.compile"),
    "Intervals": ("log.every", "checkpoint.every", "eval.every"),
}
METAVARS: dict[object, str] = {int: "N", float: "X", Path: "PATH", str: "NAME"}
FULL = "--method simclr --help"
LEFT = 28
WIDEST = 100


def show(title: str, launching: Mapping[str, Option]) -> None:
    """Print the short help; `launching` are the options that are no settings."""
    options = {**options_of(Config), **launching}
    print(f"{title}\n\nusage: {USAGE}\n\nExamples")
    for command, what in EXAMPLES.items():
        print(f"  {command}\n      {what}")
    for section, keys in COMMON.items():
        _list(section, [(_short(options[key]), _about(options[key])) for key in keys])
    known = presets.collect()
    _list("Presets (--preset)", [(name, known[name].about) for name in known])
    _list("Methods (--method)", registry.about("methods").items())
    print(f"\nEvery option, with a method's own: {FULL}")


def show_all(usage: str, title: str, parts: Iterable[Dataclass]) -> None:
    """Print every option of settings, and the values that stand without it."""
    print(f"{title}\n\nusage: {usage}")
    settings = list(parts)
    print("\nOptions\n  -h, --help\n      Print this and stop.")
    for part in settings:
        _fields(part, "")
    for part in settings:
        _sections(part, "")


def _sections(settings: Dataclass, prefix: str) -> None:
    """Print a section for each dataclass in this one."""
    for field in dataclasses.fields(settings):
        inner = getattr(settings, field.name)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            print(f"\n--{prefix}{field.name}.*: {_heading(type(inner))}".rstrip(": "))
            _fields(inner, f"{prefix}{field.name}.")
            _sections(inner, f"{prefix}{field.name}.")


def _heading(settings: type[Dataclass]) -> str:
    """Return the first line of a docstring; the signature that Python puts in its place is none."""
    text = inspect.getdoc(settings) or ""
    return "" if text.startswith(f"{settings.__name__}(") else text.partition("\n")[0]


def _fields(settings: Dataclass, prefix: str) -> None:
    for key, option in options_of(type(settings), prefix).items():
        name = key.removeprefix(prefix)
        if "." not in name:
            default = _shown(plain(getattr(settings, name)))
            line, about = f"  {_full(option)}", option.about
            if len(line) > _width() and choices(option.type):
                line = f"  {option.flag} NAME"
                about += f" One of {', '.join(map(str, choices(option.type)))}."
            print(line)
            _print_wrapped(f"{about} (default: {default})".strip(), " " * 6)


def _shown(value: object) -> str:
    """Return a value as it is typed; a text that is empty or has spaces in quotes."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    is_plain = not isinstance(value, str) or (value and " " not in value)
    return str(value) if is_plain else repr(value)


def _list(title: str, rows: Iterable[tuple[str, str]]) -> None:
    print(f"\n{title}")
    for name, about in rows:
        start = f"  {name:{LEFT - 2}}  "
        _print_wrapped(about, " " * len(start), start)


def _print_wrapped(text: str, indent: str, start: str | None = None) -> None:
    start = indent if start is None else start
    print(
        textwrap.fill(
            text,
            _width(),
            initial_indent=start,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST)


def _short(option: Option) -> str:
    kinds = [kind for kind in members(option.type) if kind is not type(None)]
    return f"{option.flag} {METAVARS.get(kinds[0], '')}".strip()


def _about(option: Option) -> str:
    names = "|".join(str(choice) for choice in choices(option.type))
    return f"[{names}] {option.about}" if names else option.about


def _full(option: Option) -> str:
    """Return an option with what it takes: `--optim.micro-batch N|None`."""
    if option.type is bool:
        section, dot, leaf = option.flag[2:].rpartition(".")
        return f"{option.flag}, --{section}{dot}no-{leaf}"
    return f"{option.flag} {'|'.join(_metavar(kind) for kind in members(option.type))}"


def _metavar(kind: object) -> str:
    if choices(kind):
        return "|".join(str(choice) for choice in choices(kind))
    if is_tuple(kind):
        return " ".join("..." if item is ... else _metavar(item) for item in items_of(kind))
    return "None" if kind is type(None) else METAVARS.get(kind, getattr(kind, "__name__", ""))
