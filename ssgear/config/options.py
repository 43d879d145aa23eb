"""The table of options: one for every field of the settings' dataclasses, with its type and help.

Command line, presets and files are all checked against it, so that a misspelt name is met with the
nearest known one wherever it stands.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

from ssgear.config.schema import Config


class Dataclass(Protocol):
    """A class of settings, or its instance."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One setting."""

    key: str
    """Dotted name of the field, `optim.batch_size`."""
    type: object
    """Annotation of the field."""
    about: str
    """Line of help."""

    @property
    def flag(self) -> str:
        """How the option is written: `--optim.batch-size`."""
        return flag_of(self.key)


def flag_of(key: str) -> str:
    """Return the option of a dotted key; the method's name is `--method`."""
    return "--method" if key == "method_name" else "--" + key.replace("_", "-")


@functools.cache
def options_of(settings: type[Dataclass], prefix: str = "") -> Mapping[str, Option]:
    """Return the options of a dataclass and of those in it by dotted key, in order."""
    found: dict[str, Option] = {}
    hints, docs = typing.get_type_hints(settings), _docs(settings)
    for field in dataclasses.fields(settings):
        key = prefix + field.name
        kind = hints[field.name]
        if is_section(kind):
            found |= options_of(kind, f"{key}.")
        elif kind is not Any:
            found[key] = Option(key=key, type=kind, about=docs.get(field.name, ""))
    return found


def is_section(kind: object) -> TypeGuard[type[Dataclass]]:
    """Whether the type of a field is a dataclass of settings."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def options_for(method: type[Any]) -> dict[str, Option]:
    """Return the options of a run with a method's own."""
    return {**options_of(Config), **options_of(method.Config, "method.")}


def _docs(settings: type[Dataclass]) -> dict[str, str]:
    """Return the text below each field, in the class and in those it derives from."""
    docs: dict[str, str] = {}
    for part in reversed(settings.__mro__[:-1]):
        body: list[ast.stmt] = []
        # one made at run time has no source, nor has one whose file is gone
        with contextlib.suppress(OSError, TypeError, SyntaxError):
            tree = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
            body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value) if _is_text(below.value) else ""
                docs[ast.unparse(field.target)] = " ".join(text.split())
    return docs


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def nearest(key: str, options: Collection[Option]) -> Option | None:
    """Return the option that was probably meant by a key that is none.

    Tried in this order: a slip of the pen; the right word in the wrong section; the words of an
    option's help in the right section (`optim.learning-rate`); anything similar.
    """
    table = {option.flag[2:]: option for option in options}
    word = key.replace("_", "-")
    section, _, leaf = word.rpartition(".")
    found = [
        *difflib.get_close_matches(word, table, n=1, cutoff=0.8),
        *(flag for flag in table if flag.rpartition(".")[2] == leaf),
        *_described(
            {f: o.about for f, o in table.items() if f.rpartition(".")[0] == section}, leaf
        ),
        *difflib.get_close_matches(word, table, n=1, cutoff=0.6),
    ]
    return table[found[0]] if found else None


def _described(helps: Mapping[str, str], leaf: str) -> list[str]:
    """Return the flag whose help has the words of `leaf`, or nearly: `lerning-rate` is lr."""
    count = leaf.count("-") + 1
    spoken = {
        " ".join(words[start : start + count]): flag
        for flag, text in reversed(list(helps.items()))
        for words in [re.findall(r"[\w-]+", text.lower())]
        for start in range(len(words) - count + 1)
    }
    phrase = leaf.replace("-", " ")
    near = difflib.get_close_matches(phrase, spoken, n=1, cutoff=0.85) if len(leaf) > 3 else []
    return [spoken[near[0]]] if near else []
