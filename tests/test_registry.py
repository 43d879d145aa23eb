from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ssgear.methods
from ssgear import registry
from ssgear.config import presets
from ssgear.errors import ConfigError

METHOD = '''"""Twin Towers (Nobody et al. 2021): redundancy reduction.

More text.
"""
from ssgear.methods.base import Group, Method

PRESETS = {"twin-quick": {"optim.epochs": 3, "model.name": "resnet_tiny"},
    "twin-long": {"extends": "twin-quick"}}

class _Shared(Method):
    pass

class Twins(Group):
    pass

class TwinTowers(_Shared):
    """Twins."""
'''

PACKAGES = {
    "triplets": {
        "__init__.py": '"""Triplets: a method of two files."""\n'
        "from ssgear.methods.triplets.method import Triplets\n",
        "method.py": "from ssgear.methods.base import Method\n"
        "PRESETS = {'triplets-quick': {'optim.epochs': 2}}\n"
        "class Triplets(Method): ...\n",
        "base.py": "raise AssertionError('is nothing that anybody asked for')\n",
    },
    "parts": {"__init__.py": "raise AssertionError('holds parts of methods, and is none')\n"},
}


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of methods in place of the package's own."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "twin_towers.py").write_text(METHOD)
    (folder / "upside.py").write_text(
        "from ssgear.methods.base import Method\nPRESETS: dict = {}\n"
    )
    for other in ("base", "_shared", "__init__"):
        (folder / f"{other}.py").write_text("raise AssertionError('is no method')\n")
    (folder / "notes.txt").write_text("no method either")
    for package, files in PACKAGES.items():
        (folder / package).mkdir()
        for name, text in files.items():
            (folder / package / name).write_text(text)
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    monkeypatch.setattr(ssgear.methods, "__path__", [*ssgear.methods.__path__, str(folder)])
    for name in ("twin_towers", "upside", "triplets", "triplets.method"):
        monkeypatch.delitem(sys.modules, f"ssgear.methods.{name}", raising=False)
    return folder


def test_names_are_file_names_with_hyphens(methods: Path) -> None:
    assert registry.names("methods") == ("triplets", "twin-towers", "upside")


def test_about_is_the_first_line_of_the_docstring(methods: Path) -> None:
    assert registry.about("methods") == {
        "triplets": "Triplets: a method of two files.",
        "twin-towers": "Twin Towers (Nobody et al. 2021): redundancy reduction.",
        "upside": "",
    }


@pytest.mark.parametrize("name", ["twin-towers", "twin_towers", "Twin-Towers"])
def test_load_finds_the_one_public_method_of_the_file(methods: Path, name: str) -> None:
    assert registry.load("methods", name).__name__ == "TwinTowers"


def test_load_finds_the_class_that_a_package_exports(methods: Path) -> None:
    found = registry.load("methods", "triplets")
    assert found.__module__ == "ssgear.methods.triplets.method"


def test_load_of_a_file_without_a_method_is_our_bug(methods: Path) -> None:
    with pytest.raises(TypeError, match=r"upside.py defines 0 public classes of Method"):
        registry.load("methods", "upside")


def test_presets_carry_their_method(methods: Path) -> None:
    found = registry.presets()
    assert list(found) == ["triplets-quick", "twin-quick", "twin-long"]
    assert found["triplets-quick"] == {"method": "triplets", "optim.epochs": 2}
    assert found["twin-quick"] == {
        "method": "twin-towers",
        "optim.epochs": 3,
        "model.name": "resnet_tiny",
    }
    assert found["twin-long"] == {"method": "twin-towers", "extends": "twin-quick"}
    assert presets.collect()["twin-quick"].about == "twin-towers, resnet_tiny, 3 epochs"


def test_unknown_name_lists_the_known(methods: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.load("methods", "twin_tower")
    assert str(caught.value) == (
        "--method: unknown method 'twin_tower' (did you mean twin-towers?); "
        "known: triplets, twin-towers, upside"
    )
    with pytest.raises(ConfigError, match=r"^run\.json: method: unknown method 'gpt'; known: "):
        registry.load("methods", "gpt", "run.json: method")


def test_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_method.py").write_text(
        "from ssgear.methods.base import Method\nclass Mine(Method): ...\nclass Other: ...\n"
    )
    (tmp_path / "my_broken.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.load("methods", "my_method:Mine").__name__ == "Mine"
    registry.check("methods", "my_method:Mine")
    for name, complaint in {
        "my_method:Mime": "--method: Mime is no class of my_method (did you mean Mine?)",
        "my_method:Other": "--method: Other does not derive from ssgear.methods.base.Method",
        "my_metod:Mine": "--method: my_metod:Mine: there is no module 'my_metod'; "
        "is its folder on PYTHONPATH?",
        ":Mine": "--method: ':Mine' names no class; write package.module:Class",
        "my_method:": "--method: 'my_method:' names no class; write package.module:Class",
    }.items():
        with pytest.raises(ConfigError) as caught:
            registry.load("methods", name)
        assert str(caught.value) == complaint
    with pytest.raises(ModuleNotFoundError):  # theirs to see, with its traceback
        registry.load("methods", "my_broken:Mine")


def test_every_method_of_the_package_loads() -> None:
    for name in registry.names("methods"):
        method = registry.load("methods", name)
        assert method.Config()
        assert registry.about("methods")[name]


def test_listing_imports_no_torch() -> None:
    program = (
        "import sys; from ssgear import registry; from ssgear.config import presets\n"
        "registry.names('methods'); registry.about('methods'); presets.collect()\n"
        "registry.check('methods', 'simclr')\n"
        "assert not {'torch', 'ssgear.methods'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
