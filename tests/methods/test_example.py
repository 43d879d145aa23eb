"""The method of CONTRIBUTING.md: a pretext, a card and a loss of its own, in one folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ssgear.methods.base import Card, Method

ROOT = Path(__file__).parents[2]
TINY = (
    "--data.size", "32", "--optim.batch-size", "64", "--optim.max-steps", "2", "--log.every", "1",
    "--eval.max-images", "50", "--eval.final-images", "50", "--engine.threads", "1",
    "--log.no-tensorboard",
)  # fmt: skip
MOST_NAMES = 17


def example() -> str:
    """Return the code of the section on methods."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("**A method**")[1]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]  # type: ignore[no-any-return]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write it into a package of its own; return what --method takes."""
    folder = tmp_path / "own_methods" / "mirror"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(example())
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.delitem(sys.modules, "mirror", raising=False)
    return "mirror:Mirror"


def test_a_method_with_a_pretext_of_its_own_is_one_folder(
    package: str, run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_ssgear("train", "--method", package, *TINY, "--output", run)
    assert done.status == 0, done.err
    page = (run / "report.html").read_text()
    assert "<b>Mirror game</b> trained a" in page
    assert "Training asks which of the two is mirrored." in page
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert sum('"kind": "train"' in line for line in lines) == 2


def test_the_example_is_short() -> None:
    code = [line for line in example().splitlines() if line and not line.startswith(("from", "im"))]
    assert len(code) <= 40


def test_the_contract_has_few_names_and_no_text() -> None:
    """Texts for people stand in the card alone."""
    own = {*vars(Method), *Method.__annotations__} - {*vars(nn.Module)}
    names = sorted(name for name in own if not name.startswith("_"))
    assert len(names) <= MOST_NAMES, names
    texts = {field.name for field in fields(Card)} | {"aim", "title", "hint"}
    assert not texts & {*names}
    assert not [name for name in names if isinstance(getattr(Method, name, None), str | tuple)]
