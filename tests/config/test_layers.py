from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssgear.config.layers import Layer, build, layer_of
from ssgear.errors import ConfigError

PLAIN = """
from dataclasses import dataclass
from ssgear.methods.base import Method

class Plain(Method):
    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        strength: float = 1.0
        pair: tuple[int, int] = (1, 2)

        def __post_init__(self):
            if self.strength < 0:
                raise ValueError("strength is below zero")
"""


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A method of a user's own."""
    (tmp_path / "plain_method.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "plain_method:Plain"


def test_nested_and_dotted_keys_mean_the_same() -> None:
    nested = {"optim": {"lr": 0.3, "batch-size": 64}, "method": {"temperature": 0.7}, "seed": 4}
    dotted = {"optim.lr": 0.3, "optim.batch_size": 64, "method.temperature": 0.7, "seed": 4}
    assert build([layer_of(nested, "a")]) == build([layer_of(dotted, "b")])


@pytest.mark.parametrize(
    "named",
    [
        {"method": "simclr"},
        {"method_name": "simclr"},
        {"method": {"name": "simclr", "temperature": 0.7}},
        {"method_name": "simclr", "method": {"temperature": 0.7}},
        {"method": "simclr", "method.temperature": 0.7},
    ],
)
def test_ways_to_name_the_method(named: dict[str, Any]) -> None:
    layer = layer_of(named, "here")
    assert layer.method == "simclr"
    assert layer.settings in ({}, {"method.temperature": 0.7})


def test_higher_layers_win() -> None:
    low = Layer(where="low", settings={"optim.lr": 1.0, "seed": 1, "data.path": "a"})
    high = Layer(where="high", settings={"optim.lr": 2.0, "data.path": None})
    config = build([low, high])
    assert (config.optim.lr, config.seed, config.data.path) == (2.0, 1, None)


def test_settings_of_another_method_are_left_behind(plain: str) -> None:
    preset = Layer(
        where="preset", method="simclr", settings={"method.temperature": 0.7, "optim.lr": 0.3}
    )
    config = build([preset, Layer(where="--method", method=plain)])
    assert config.method_name == plain
    assert config.method.strength == 1.0
    assert config.optim.lr == 0.3
    same = build([preset, Layer(where="--method", method="SimCLR")])
    assert (same.method_name, same.method.temperature) == ("simclr", 0.7)


def test_own_method_takes_its_own_settings(plain: str) -> None:
    layer = layer_of({"method": {"name": plain, "strength": 3, "pair": [3, 4]}}, "run.json")
    method = build([layer]).method
    assert (method.strength, method.pair) == (3.0, (3, 4))
    with pytest.raises(ConfigError, match=r"^--method: plain_method:Plain: strength is below zero"):
        build([layer_of({"method": {"name": plain, "strength": -1}}, "run.json")])


@pytest.mark.parametrize(
    ("mapping", "complaint"),
    [
        ({"optim": {"lr": "fast"}}, "optim.lr: 'fast' is not a number"),
        (
            {"optim": {"learning_rate": 1}},
            "optim.learning_rate: unknown key (did you mean optim.lr?)",
        ),
        ({"optm": {}}, "optm: unknown key (did you mean optim?)"),
        ({"optm": {"lr": 1}}, "optm.lr: unknown key (did you mean optim.lr?)"),
        ({"optim": 3}, "optim: 3 is not an object of settings"),
        ({"optim.lr": 1, "optim": {"lr": 1}}, "optim.lr is there twice; keep one"),
        ({"optim.lr": 0}, "--optim.lr: 0.0 is not possible; use a positive number"),
        (
            {"method.temprature": 1},
            "method.temprature: unknown setting of simclr (did you mean method.temperature?)",
        ),
        ({"method.temperature": "x"}, "method.temperature: 'x' is not a number"),
        (
            {"method": {"temperature": 0}},
            "--method.temperature: 0.0 is not possible; use a value above 0",
        ),
        (
            {"method": "simclrr"},
            "method: unknown method 'simclrr' (did you mean simclr?); known: simclr",
        ),
        ({"method": 3}, "method: 3 is not the name of a method or its settings"),
        (
            {"method": "a", "method_name": "b"},
            "names two methods, a and b; keep one",
        ),
        ({"preset": "quick"}, "preset: unknown key"),
    ],
)
def test_a_mistake_names_the_place_and_the_key(mapping: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build([layer_of(mapping, "run.json")])
    known = str(caught.value).partition("known: ")[0]  # more methods may come
    assert known == f"run.json: {complaint}".partition("known: ")[0]
