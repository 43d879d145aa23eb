"""Who may import whom: downward only, siblings never (the table of CONTRIBUTING.md, held here).

Every import counts, also one inside a function or under TYPE_CHECKING: a type is a contract too,
and contracts point downward. What a file pulls in when it is *imported* is checked apart from that.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ssgear"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    ("config", "registry", "errors", "distributed"),
    ("kernels", "storage", "optim"),
    ("data", "models", "losses"),
    ("methods",),
    ("engine", "evaluation", "views", "report"),
    ("callbacks", "command"),
    ("train", "generate", "evaluate", "compare", "doctor"),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
WITHIN_LAYER_0 = {
    ("config", "errors"),
    ("config", "registry"),
    ("registry", "errors"),
    ("distributed", "errors"),
}
MOST_MODULES = 20
"""Of a folder, at one level."""
MOST_LINES, MOST_LINES_OF_KERNELS = 80, 120
"""Of a function; kernels in Triton cannot be cut into parts."""
HANDED_OVER = sorted(str(file.relative_to(PACKAGE)) for file in (PACKAGE / "report").glob("*.py"))
LIFTABLE = ("kernels", "losses")
LIFTABLE_NEEDS = {"torch", "triton"}
LIFTABLE_ROOMS = {"kernels", "losses", "distributed", "errors"}

LIGHT = (
    "__init__", "__main__", "command", "config", "registry", "errors",
    "train", "generate", "evaluate", "compare", "doctor", "views",
)  # fmt: skip
NOT_LIGHT = (
    "ssgear.evaluate.encoders",
    "ssgear.evaluate.stores",
    "ssgear.evaluate.writing",
    "ssgear.doctor.speed",
    "ssgear.views.biggan",
    "ssgear.views.jobs.originals",
)
"""Networks and images, which light rooms import inside functions."""
HEAVY = {"torch", "torchvision", "timm", "deepspeed", "tensorboard", "sklearn", "matplotlib"}

DISTRIBUTIONS = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "nvidia-dali-cuda130": "nvidia",
}


@dataclass(frozen=True)
class Import:
    """One imported module and where the import stands."""

    importer: Path
    line: int
    module: str
    executed: bool
    """Whether importing the file runs it (not in a function, not for types only)."""

    def __str__(self) -> str:
        return f"{self.importer.relative_to(ROOT)}:{self.line} imports {self.module}"


def module_of(file: Path) -> str:
    """Dotted name of a file of the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Room of a dotted name in the package; the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def for_types_only(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, executed: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it runs when the file is imported."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(child, ast.If) and for_types_only(child)
        yield child, executed
        yield from walk(child, executed and not lazy and not typing)


def modules_named(node: ast.AST) -> list[str]:
    """Modules that an import statement names; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, "relative import: write the full name"
        full = [f"{node.module}.{alias.name}" for alias in node.names]
        return sorted({name if is_module(name) else node.module for name in full})
    return []


def imports_of(file: Path) -> list[Import]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        Import(file, node.lineno, name, executed)
        for node, executed in walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in modules_named(node)
    ]


IMPORTS = [found for file in FILES for found in imports_of(file)]


def own(found: Import) -> bool:
    """Whether a module of the package is imported."""
    return found.module.split(".")[0] == "ssgear"


def downward(importer: str, imported: str) -> bool:
    """Whether one room may import another."""
    same = importer == imported
    return same or LEVEL[imported] < LEVEL[importer] or (importer, imported) in WITHIN_LAYER_0


def test_every_file_stands_in_a_known_room() -> None:
    unknown = [str(file) for file in FILES if room_of(module_of(file)) not in LEVEL]
    assert not unknown, f"give these a layer in {Path(__file__).name}: {unknown}"


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("engine", "methods", True),
        ("methods", "kernels", True),
        ("config", "registry", True),
        ("data", "data", True),
        ("registry", "config", False),
        ("kernels", "losses", False),
        ("data", "models", False),
        ("report", "evaluation", False),
        ("train", "evaluate", False),
    ],
)
def test_rule(importer: str, imported: str, allowed: bool) -> None:
    assert downward(importer, imported) is allowed


def test_imports_point_downward() -> None:
    # the version number in ssgear/__init__.py is anyone's
    wrong = [
        str(found)
        for found in IMPORTS
        if own(found)
        and found.module != "ssgear"
        and not downward(room_of(module_of(found.importer)), room_of(found.module))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_version_is_taken_from_the_package_itself() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for file in FILES
        for node, _ in walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "ssgear"
        for alias in node.names
        if alias.name != "__version__" and not is_module(f"ssgear.{alias.name}")
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_reach_each_other_through_the_registry() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.startswith("ssgear.methods.")
        and room_of(module_of(found.importer)) == "methods"
        and method_of(found.module) not in ("base", method_of(module_of(found.importer)))
    ]
    assert not wrong, "\n".join(wrong)


def method_of(module: str) -> str:
    """Name of the file or package of `ssgear.methods` that a module is or belongs to."""
    return module.removeprefix("ssgear.methods.").split(".")[0]


def test_kernels_and_losses_can_be_lifted_out() -> None:
    def fine(found: Import) -> bool:
        if own(found):
            return room_of(found.module) in LIFTABLE_ROOMS
        top = found.module.split(".")[0]
        return top in LIFTABLE_NEEDS or top in sys.stdlib_module_names

    wrong = [
        str(found)
        for found in IMPORTS
        if room_of(module_of(found.importer)) in LIFTABLE and not fine(found)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_circles() -> None:
    """Every import counts, also one inside a function or for types; a package's face is a file."""
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        importer = module_of(found.importer)
        # the version number in ssgear/__init__.py is anyone's
        if own(found) and found.module not in ("ssgear", importer):
            graph.setdefault(importer, set()).add(found.module)
    list(graphlib.TopologicalSorter(graph).static_order())


def wing_of(module: str) -> str:
    """Name of the wing of a room that a module is or belongs to, or of the module at its top."""
    return ".".join(module.split(".")[:3])


def test_wings_of_a_room_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        importer, imported = wing_of(module_of(found.importer)), wing_of(found.module)
        depths = {importer.count("."), imported.count(".")}  # a room's face is no wing
        if own(found) and room_of(importer) == room_of(imported) and depths == {2}:
            graph.setdefault(importer, set()).add(imported)
    arrows = {importer: imported - {importer} for importer, imported in graph.items()}
    list(graphlib.TopologicalSorter(arrows).static_order())


def test_folders_and_names() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder, count in Counter(file.parent for file in FILES).items()
        if count > MOST_MODULES
    }
    assert not crowded, f"at most {MOST_MODULES} modules at one level: {crowded}"
    private = [str(f.relative_to(ROOT)) for f in FILES if re.match("_(?!_(init|main)__)", f.name)]
    assert not private, f"no module name begins with an underscore: {private}"


def test_functions_are_short() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno
        >= (MOST_LINES_OF_KERNELS if room_of(module_of(file)) == "kernels" else MOST_LINES)
    ]
    assert not long, long


@pytest.mark.parametrize("name", ["engine/run.py", *HANDED_OVER])
def test_what_is_handed_to_the_report_is_typed(name: str) -> None:
    """Neither `Run.results` nor anything that the report is given may be of type Any."""
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    lines = [node.lineno for node in ast.walk(tree) if getattr(node, "id", "") == "Any"]
    assert not lines, f"ssgear/{name}: Any in lines {lines}"


def test_contributing_shows_the_layers() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {int(level): re.findall("`([^`]+)`", rooms) for level, rooms in rows}
    assert shown == {level: list(rooms) for level, rooms in enumerate(LAYERS)}


def test_the_architecture_page_shows_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## What each room may import")[2].partition("\n## ")[0]
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    listed = {room for row in re.findall(r"^\|([^|]+)\|", section, re.MULTILINE)
              for room in re.findall("`([^`]+)`", row)}  # fmt: skip
    drawn = set(re.findall(r'font-weight="600" fill="#1c2b39">([^<]+)<', picture))
    assert listed == set(LEVEL)
    assert drawn == set(LEVEL) - {"__init__"}


def is_light(module: str) -> bool:
    return room_of(module) in LIGHT and not module.startswith(NOT_LIGHT)


def test_light_rooms_import_nothing_heavy_at_module_level() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.executed
        and is_light(module_of(found.importer))
        and found.module.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_light_rooms_loads_nothing_heavy() -> None:
    modules = [module_of(file) for file in FILES if is_light(module_of(file))]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def requirements() -> tuple[set[str], set[str]]:
    """Top-level modules of the core dependencies and of the extras that a user may install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> set[str]:
        bare = [re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines]
        return {DISTRIBUTIONS.get(name, name) for name in bare}

    extras = project["optional-dependencies"]
    optional = [line for extra, lines in extras.items() if extra != "dev" for line in lines]
    return names(project["dependencies"]), names(optional)


def third_party() -> set[str]:
    used = {found.module.split(".")[0] for found in IMPORTS if not own(found)}
    return used - set(sys.stdlib_module_names)


def test_imported_packages_are_declared() -> None:
    core, optional = requirements()
    # triton comes with torch
    assert third_party() - {"triton"} <= core | optional


def test_declared_packages_are_imported() -> None:
    core, _ = requirements()
    # torch.utils.tensorboard is what imports tensorboard
    assert core - {"tensorboard"} <= third_party()


def test_optional_packages_are_imported_where_they_are_used() -> None:
    _, optional = requirements()
    wrong = [
        str(found) for found in IMPORTS if found.executed and found.module.split(".")[0] in optional
    ]
    assert not wrong, "\n".join(wrong)


def test_no_work_at_import() -> None:
    """A file defines things; kernels/ may also register operators by a bare call."""
    wrong = []
    for file in FILES:
        registers = room_of(module_of(file)) == "kernels"
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            loop = isinstance(node, ast.For | ast.While | ast.With)
            call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            if loop or (call and not registers):
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}")
    assert not wrong, "\n".join(wrong)


SPECIAL = re.compile(r"rotnet|drlim|exemplar|stl-?10", re.IGNORECASE)
MAY_NAME_THEM = (
    "methods/rotnet/", "methods/drlim/", "methods/exemplar_cnn/",
    "models/encoders/",  # networks of those names, for --model.name
    "data/sources/open.py", "data/sources/published.py", "config/schema.py",  # a set of that name
)  # fmt: skip


def test_special_methods_and_sets_are_known_in_their_own_folders_only() -> None:
    """A card, a pretext or an entry of `SOURCES` says what is special."""
    texts = {*FILES, *PACKAGE.rglob("*.html"), *PACKAGE.rglob("*.css")}
    wrong = [
        f"{file.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for file in sorted(texts)
        if not str(file.relative_to(PACKAGE)).startswith(MAY_NAME_THEM)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if SPECIAL.search(line)
    ]
    assert not wrong, "\n".join(wrong)
