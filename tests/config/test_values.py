from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from ssgear.config.values import convert, expected, plain, refusal, takes
from ssgear.errors import ConfigError

Choice = Literal["float32", "bf16"]


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ("x", str, "x"),
        ("a/b", Path, Path("a/b")),
        (None, int | None, None),
        (3, int | None, 3),
        ("a", Path | None, Path("a")),
        ("bf16", Choice, "bf16"),
        ([2048, 256], tuple[int, ...], (2048, 256)),
        ([], tuple[int, ...], ()),
        ([1, 0.5], tuple[float, float], (1.0, 0.5)),
        (["a", 1], tuple[str, int], ("a", 1)),
        ({"a": 1}, dict[str, int], {"a": 1}),
    ],
)
def test_converts(value: Any, kind: Any, result: Any) -> None:
    converted = convert(value, kind, "here")
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("value", "kind", "complaint"),
    [
        (3.5, int, "3.5 is not a whole number"),
        (True, int, "True is not a whole number"),
        (False, float, "False is not a number"),
        (math.inf, float, "inf is not a number"),
        ("3", float, "'3' is not a number"),
        (1, bool, "1 is not True or False"),
        (None, int, "None is not a whole number"),
        ("x", int | None, "'x' is not a whole number or None"),
        ("", Path, "'' is not a path"),
        ("bf17", Choice, "'bf17' is not one of float32, bf16 (did you mean bf16?)"),
        (3, Choice, "3 is not one of float32, bf16"),
        ([1, "a"], tuple[int, ...], "[1, 'a'] is not a list of whole numbers"),
        ("12", tuple[int, ...], "'12' is not a list of whole numbers"),
        ([1.0], tuple[float, float], "[1.0] is not a list of 2 numbers"),
    ],
)
def test_refuses_with_what_is_expected(value: Any, kind: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(value, kind, "here")
    assert str(caught.value) == f"here: {complaint}"


@pytest.mark.parametrize(
    ("words", "kind", "wrong"),
    [
        (["3"], int, None),
        (["-3"], int, None),
        (["3.0"], int, "3.0"),
        (["1e-3"], float, None),
        (["nan"], float, "nan"),
        (["None"], int | None, None),
        (["none"], int | None, "none"),
        (["TRUE"], bool, None),
        (["1"], bool, "1"),
        (["bf16"], Choice, None),
        (["fp8"], Choice, "fp8"),
        ([""], Path, ""),
        (["1", "b"], tuple[int, ...], "b"),
        (["a", "b"], tuple[str, int], "b"),
    ],
)
def test_refusal_names_the_word(words: list[str], kind: Any, wrong: str | None) -> None:
    found = refusal(words, kind)
    assert (found and found[0]) == wrong


def test_how_many_words_a_type_takes() -> None:
    assert [takes(kind) for kind in (int, int | None, Choice, tuple[int, int])] == [1, 1, 1, 2]
    assert [takes(kind) for kind in (tuple[int, ...], dict[str, int])] == [None, None]


def test_names_of_types() -> None:
    assert expected(Path | None) == "a path or None"
    assert expected(dict) == "dict"


def test_plain_is_what_json_holds() -> None:
    @dataclasses.dataclass
    class Inner:
        path: Path = Path("a/b")
        dims: tuple[int, ...] = (1, 2)
        nothing: None = None

    assert plain(Inner()) == {"path": "a/b", "dims": [1, 2], "nothing": None}
