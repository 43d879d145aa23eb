"""What the repository promises about itself.

Commands, options and links that the pages name exist, and nothing in it belongs to one machine.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import ssgear
from ssgear.config import cli, deepspeed
from ssgear.config.schema import Config

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "benchmarks", "csrc", "docs", "ssgear", "tests")
TOP_FILES = ("*.md", "*.py", "*.toml", "Makefile", "constraints.txt", ".gitignore")
GENERATED = {"__pycache__"}
PAGES = ("README.md", "CONTRIBUTING.md")
GUIDES = ("docs/data.md", "docs/evaluation.md", "docs/generated_views.md", "docs/methods.md")
PUBLIC = {
    "ssgear": "load_encoder",
    "ssgear.losses": "nt_xent NTXentLoss gradient_penalty info_nce byol negative_cosine "
    "barlow_twins sinkhorn swav contrastive_margin",
    "ssgear.kernels.nt_xent": "nt_xent",
    "ssgear.kernels.gradient_penalty": "gradient_penalty",
    "ssgear.kernels.stylegan_ops": "leaky_relu",
    "ssgear.data.augment": "AugmentSpec augment",
    "ssgear.data.sources": "open_source Source SOURCES",
    "ssgear.models.encoders": "load_encoder save_encoder build_encoder",
    "ssgear.models.gan": "load_generator save_generator",
    "ssgear.evaluation": "ProbeResult linear_probe knn_accuracy mean_average_precision "
    "frechet_distance kernel_distance cka opd fine_tune",
}

# put together here, so that this file is not its own finding
HOME_FOLDERS = "|".join(("home", "root", "Users", "work", "opt", "tmp", "mnt"))
HOSTS = "|".join(
    ("pypi" + r"\.org", "python" + "hosted", "download" + r"\.pytorch", "index" + "-url")
)
UNFINISHED = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3))
FORBIDDEN = {
    "a path of one machine": rf"(?<![\w.}}/])/(?:{HOME_FOLDERS})/",
    "a package registry": rf"(?i){HOSTS}",
    "an unfinished place": rf"\b(?:{UNFINISHED})\b",
}


def files() -> Iterator[Path]:
    """Every file of the repository that is not made by running it."""
    for pattern in TOP_FILES:
        yield from ROOT.glob(pattern)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and not GENERATED & set(path.parts):
                yield path


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_belongs_to_one_machine(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for path in files()
        for number, line in enumerate((text_of(path) or "").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_the_patterns_find_what_they_are_for() -> None:
    examples = {
        "a path of one machine": f"open('{os.sep}tmp{os.sep}x')",
        "a package registry": "https://" + "pypi" + ".org/simple",
        "an unfinished place": "# " + "TO" + "DO: later",
    }
    for what, example in examples.items():
        assert re.search(FORBIDDEN[what], example), what


def test_every_module_says_what_is_in_it() -> None:
    rooms = ("ssgear", "benchmarks")
    modules = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    silent = [
        str(path.relative_to(ROOT))
        for path in modules
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert modules and not silent, silent


@pytest.mark.parametrize("name", PAGES)
def test_named_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", page("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page(name), re.MULTILINE))
    assert named and named <= targets, named - targets


@pytest.mark.parametrize("name", PAGES)
def test_named_modules_exist(name: str) -> None:
    named = set(re.findall(r"(?:-m|--module) (ssgear[\w.]*)", page(name)))
    missing = [
        module for module in named if not any(path.is_file() for path in places_to_run(module))
    ]
    assert named and not missing, missing


def places_to_run(module: str) -> tuple[Path, Path]:
    """Files that `python -m module` may run."""
    path = ROOT / Path(*module.split("."))
    return path.with_suffix(".py"), path / "__main__.py"


@pytest.mark.parametrize("name", [*PAGES, *GUIDES, "CHANGELOG.md"])
def test_named_imports_work(name: str) -> None:
    """`from ssgear.x import y` in a page, and `ssgear.x.y` in backticks."""
    text = page(name)
    lines = re.findall(r"^\s*from (ssgear[\w.]*) import ([\w, ]+)", text, re.MULTILINE)
    wanted = {(module, each.strip()) for module, names in lines for each in names.split(",")}
    wanted |= set(re.findall(r"`(ssgear[\w.]*)\.(\w+)`", text))
    missing = [(module, each) for module, each in sorted(wanted) if not importable(module, each)]
    assert not missing, missing


def importable(module: str, name: str) -> bool:
    """Whether a module has a member of that name, or a module below it has the name."""
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


def test_imports_of_the_design_work() -> None:
    """The public functions that other projects import; each by the path they import it from."""
    for module, names in PUBLIC.items():
        missing = [name for name in names.split() if not importable(module, name)]
        assert not missing, (module, missing)


@pytest.mark.parametrize("name", [*PAGES, *GUIDES, "docs/architecture.md"])
def test_named_files_exist(name: str) -> None:
    named = set(re.findall(r"`((?:ssgear|tests|benchmarks|docs)/[\w/.-]+)`", page(name)))
    patterns = {path for path in named if "NAME" in path or "FILE" in path or "ROOM" in path}
    missing = [path for path in sorted(named - patterns) if not (ROOT / path).exists()]
    assert not missing, missing


def option_exists(option: str) -> bool:
    """Whether `--section.field` is a field of the configuration, or of a method's own."""
    if option.startswith("--method."):
        field = option.removeprefix("--method.").replace("-", "_")
        methods = (ROOT / "ssgear" / "methods").rglob("*.py")
        return any(
            re.search(rf"^ +{field}: ", text_of(file) or "", re.MULTILINE) for file in methods
        )
    kind: Any = Config
    for part in option.removeprefix("--").replace("-", "_").split("."):
        hints = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            return False
        kind = next((arg for arg in get_args(hints[part]) if arg is not type(None)), hints[part])
    return True


@pytest.mark.parametrize("name", [*PAGES, *GUIDES, "CHANGELOG.md"])
def test_named_options_exist(name: str) -> None:
    named = set(re.findall(r"--[a-z]+\.[a-z.-]*[a-z]", page(name)))
    assert not [option for option in named if not option_exists(option)]


def training_commands() -> list[list[str]]:
    """Arguments of every training command in README and guides that starts a new run."""
    pages = "\n".join(page(name) for name in ("README.md", *GUIDES))
    lines = re.findall(r"^[^#`\n]*ssgear\.train([^#\n]*)", pages, re.MULTILINE)
    words = [shlex.split(line) for line in lines]
    return [line for line in words if line and not {"--help", "--resume"} & set(line)]


@pytest.mark.parametrize("arguments", training_commands(), ids=" ".join)
def test_training_commands_are_understood(arguments: list[str]) -> None:
    launch = cli.parse(arguments)
    if launch.config.deepspeed:
        written = json.loads(re.findall(r"`(\{.*?\})`", page("README.md"))[0])
        resolved = deepspeed.resolve(
            written, launch.config, launch.given, world=8, device="cuda", where="README.md"
        )
        assert resolved.ds["zero_optimization"]["stage"] == 1


@pytest.mark.parametrize("name", [*PAGES, *GUIDES, "CHANGELOG.md", "docs/log.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page(name))
    here = (ROOT / name).parent
    assert not [link for link in links if not (here / link).exists()]


def test_pages_that_code_cites_are_here() -> None:
    pattern = re.compile(r"\b(?:docs/\w+|[A-Z]{3,})\.md\b")
    cited = {
        (path.name, name)
        for path in files()
        if path.suffix in (".py", ".cpp", ".h", ".inl")
        for name in pattern.findall(text_of(path) or "")
    }
    assert ("simclr.py", "docs/math.md") in cited
    here = {path.name for path in files()}
    assert not [(path, name) for path, name in cited if Path(name).name not in here]


def test_example_of_the_evaluation_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```python\n(.*?)```", page("docs/evaluation.md"), re.DOTALL)[0]
    exec(compile(block, "docs/evaluation.md", "exec"), {})
    assert "CKA 1.000, OPD 0.000" in capsys.readouterr().out


def test_library_example_of_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", page("README.md"), re.DOTALL)
    example = next(block for block in blocks if "nt_xent" in block)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["loss"].isfinite() and names["z1"].grad.abs().sum() > 0
    assert len([line for line in example.splitlines() if line]) <= 6


def test_tested_versions_satisfy_the_declared_ones() -> None:
    project = tomllib.loads(page("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    del extras["tensorrt"]  # nothing of it has run here
    declared = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    pinned = dict(re.findall(r"^([\w-]+)==(\d+(?:\.\d+)*)$", page("constraints.txt"), re.MULTILINE))

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    for line in declared:
        name, _, least = line.partition(">=")
        name = name.partition("[")[0]
        if name != "ssgear":
            assert name in pinned, f"{name} has no tested version"
            assert number(pinned[name]) >= number(least.partition(",")[0] or "0"), line


def test_version_is_in_the_changelog_or_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", page("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == ssgear.__version__


def test_ci_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in page(".ci/run")
    assert os.access(script, os.X_OK), ".ci/run is not executable"
