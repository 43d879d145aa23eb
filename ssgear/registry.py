"""Name -> class, found by file name: `ssgear/methods/barlow_twins.py` is the method `barlow-twins`.

A method of several files is a package, `ssgear/methods/gan_ssl/`: the one with a `method.py`, which
holds the class and its `PRESETS`; its `__init__.py` says what it is and exports the class. Names,
presets and help lines are read from the source text, so that listing them imports nothing; `load`
imports the one that is asked for. `package.module:Class` is a class of the user's own.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from ssgear.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parent
BASES = {"methods": "Method", "views": "Generator"}
"""Folder of a kind of thing -> class in its `base.py` that each of them derives from."""
OPTIONS = {"methods": "method", "views": "generator"}
"""Folder of a kind of thing -> option that names one, key of a preset's, and file of a package's
class."""


def canonical(name: str) -> str:
    """Spell a name small and with hyphens; `package.module:Class` stays as it is."""
    return name if ":" in name else name.replace("_", "-").lower()


def names(kind: str) -> tuple[str, ...]:
    """Return the names of every `methods` (say), in order; nothing is imported."""
    return tuple(canonical(path.stem) for path in _members(kind))


def about(kind: str) -> dict[str, str]:
    """Return the first line of each file's docstring by name; nothing is imported."""
    docs = {canonical(path.stem): ast.get_docstring(_tree(_face(path))) for path in _members(kind)}
    return {name: (doc or "").partition("\n")[0] for name, doc in docs.items()}


def presets(kind: str = "methods") -> dict[str, dict[str, object]]:
    """Return the `PRESETS` of every file by name, as they are written, with their owner.

    They are literals, so nothing is imported; `ssgear.config.presets` resolves what they extend.
    """
    return {
        name: {OPTIONS[kind]: canonical(path.stem), **settings}
        for path in _members(kind)
        for name, settings in _presets_of(_file_of_class(path, kind)).items()
    }


def check(kind: str, name: str, where: str = "--method") -> None:
    """Refuse a name that nothing goes by; nothing is imported."""
    known = names(kind)
    if ":" in name or canonical(name) in known:
        return
    near = did_you_mean(canonical(name), known)
    raise ConfigError(
        f"{where}: unknown {BASES[kind].lower()} {name!r}{near}; known: {', '.join(known)}"
    )


def load(kind: str, name: str, where: str = "--method") -> type[Any]:
    """Import the class that goes by `name`; a name that nothing goes by is an error at `where`."""
    if ":" in name:
        return _own_class(kind, name, where)
    check(kind, name, where)
    stem = next(path.stem for path in _members(kind) if canonical(path.stem) == canonical(name))
    module = importlib.import_module(f"ssgear.{kind}.{stem}")
    base = _base(kind)
    here = [value for value in vars(module).values() if _defined_in(module, value, base)]
    if len(here) != 1:
        raise TypeError(f"{module.__file__} defines {len(here)} public classes of {base.__name__}")
    found: type[Any] = here[0]
    return found


def _members(kind: str) -> list[Path]:
    """List the files and packages that hold one each; other packages are parts of some of them."""
    files = [path for path in (PACKAGE / kind).glob("*.py") if path.stem != "base"]
    packages = [path.parent for path in (PACKAGE / kind).glob(f"*/{OPTIONS[kind]}.py")]
    return sorted(path for path in (*files, *packages) if not path.stem.startswith("_"))


def _face(path: Path) -> Path:
    return path / "__init__.py" if path.is_dir() else path


def _file_of_class(path: Path, kind: str) -> Path:
    return path / f"{OPTIONS[kind]}.py" if path.is_dir() else path


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _presets_of(file: Path) -> dict[str, dict[str, object]]:
    for node in ast.walk(_tree(file)):
        match node:
            case ast.Assign(targets=[ast.Name("PRESETS")], value=ast.expr() as value):
                break
            case ast.AnnAssign(target=ast.Name("PRESETS"), value=ast.expr() as value):
                break
    else:
        return {}
    literal: dict[str, dict[str, object]] = ast.literal_eval(value)
    return literal


def _base(kind: str) -> type[Any]:
    base: type[Any] = getattr(importlib.import_module(f"ssgear.{kind}.base"), BASES[kind])
    return base


def _defined_in(module: ModuleType, value: object, base: type[Any]) -> bool:
    """Whether a class is of the module, or of a file of the package that the module is."""
    return (
        isinstance(value, type)
        and issubclass(value, base)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
        and not value.__name__.startswith("_")
    )


def _own_class(kind: str, name: str, where: str) -> type[Any]:
    """Import `package.module:Class`; what goes wrong inside that module keeps its traceback."""
    path, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), class_name)):
        raise ConfigError(f"{where}: {name!r} names no class; write package.module:Class")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{where}: {name}: there is no module {error.name!r}; is its folder on PYTHONPATH?"
        ) from error
    base = _base(kind)
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, base):
        return found
    known = [key for key, value in vars(module).items() if _defined_in(module, value, base)]
    what = "is no class" if found is None else "does not derive from"
    right = f"of {path}" if found is None else f"ssgear.{kind}.base.{base.__name__}"
    raise ConfigError(f"{where}: {class_name} {what} {right}{did_you_mean(class_name, known)}")
