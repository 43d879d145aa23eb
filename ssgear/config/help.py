"""The short help: common options by section, presets and methods. No torch is imported for it.

Every option, with those of a method, is listed by `--method NAME --help`; tyro lays that out.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ssgear import registry
from ssgear.config import presets
from ssgear.config.options import Option, options_of
from ssgear.config.schema import Config
from ssgear.config.values import members

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
LEFT = 26
WIDEST = 100


def show(title: str, launching: Mapping[str, Option], console: Console | None = None) -> None:
    """Print the short help; `launching` are the options that are no settings."""
    console = console or Console(highlight=False)
    console.width = min(console.width, WIDEST)
    options = {**options_of(Config), **launching}
    console.print(Text(f"{title}\n"))
    console.print(Text.assemble(("usage: ", "bold"), USAGE, "\n"))
    console.print(Text("Examples", "bold"))
    for command, what in EXAMPLES.items():
        console.print(Text(f"  {command}"))
        console.print(Text(f"      {what}", "dim"))
    for section, keys in COMMON.items():
        _list(console, section, [(_written(options[key]), _about(options[key])) for key in keys])
    known = presets.collect()
    _list(console, "Presets (--preset)", [(name, known[name].about) for name in known])
    _list(console, "Methods (--method)", registry.about("methods").items())
    console.print(Text.assemble("\nEvery option, with a method's own: ", (FULL, "bold")))


def _list(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    console.print(Text(f"\n{title}", "bold"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=LEFT)
    grid.add_column()
    for name, about in rows:
        grid.add_row(Text(name), Text(about))
    console.print(Padding(grid, (0, 0, 0, 2)))


def _written(option: Option) -> str:
    kinds = [each for each in members(option.type) if each is not type(None)]
    return f"{option.flag} {METAVARS.get(kinds[0], '')}".strip()


def _about(option: Option) -> str:
    choices = typing.get_args(option.type) if typing.get_origin(option.type) is Literal else ()
    shown = f"[{'|'.join(choices)}] " if choices else ""
    return shown + option.about
