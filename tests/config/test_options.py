from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ssgear.config.options import nearest, options_of
from ssgear.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3
    """How wide,
    in pixels."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    first: float = 0.5
    """The first one."""


@dataclass(frozen=True, kw_only=True)
class Outer(Parent):
    inner: Inner = field(default_factory=Inner)
    last: tuple[int, ...] = (1, 2)
    silent: bool = False


def test_options_are_the_fields_of_all_dataclasses() -> None:
    found = options_of(Outer, "method.")
    assert {key: option.about for key, option in found.items()} == {
        "method.first": "The first one.",
        "method.inner.width": "How wide, in pixels.",
        "method.last": "",
        "method.silent": "",
    }
    assert found["method.last"].type == tuple[int, ...]


def test_flags() -> None:
    options = options_of(Config)
    assert options["optim.batch_size"].flag == "--optim.batch-size"
    assert options["method_name"].flag == "--method"
    assert "method" not in options


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("optim.learning-rate", "optim.lr"),
        ("optim.lerning_rate", "optim.lr"),
        ("optim.moving-average", "optim.ema"),
        ("data.bad-share", "data.max_bad_share"),
        ("optim.batchsize", "optim.batch_size"),
        ("optim.steps", "optim.max_steps"),
        ("lr", "optim.lr"),
        ("train.lr", "optim.lr"),
        ("batch_size", "optim.batch_size"),
        ("engine.batch_size", "optim.batch_size"),
        ("engine.presicion", "engine.precision"),
        ("data.pth", "data.path"),
        ("data.syntetic", "data.synthetic"),
        ("data.synthetic_ration", "data.synthetic_ratio"),
        ("outptu", "output"),
        ("method_nam", "method_name"),
        ("model.nrom", "model.norm"),
        ("xyzzy", None),
        ("a", None),
        ("", None),
    ],
)
def test_nearest_finds_what_was_meant(typed: str, meant: str | None) -> None:
    near = nearest(typed, list(options_of(Config).values()))
    assert (near and near.key) == meant
