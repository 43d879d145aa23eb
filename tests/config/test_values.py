from __future__ import annotations

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from ssgear.config.values import convert, expected, from_words, plain
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
    ("words", "kind", "value"),
    [
        (["3"], int, 3),
        (["-3"], int, -3),
        (["1e-3"], float, 1e-3),
        (["None"], int | None, None),
        (["7"], int | None, 7),
        (["None"], Path | None, None),
        (["~"], Path | None, Path("~").expanduser()),
        (["None"], str, "None"),
        (["TRUE"], bool, True),
        (["False"], bool | None, False),
        (["bf16"], Choice, "bf16"),
        (["2"], Literal[1, 2], 2),
        (["1", "2"], tuple[int, ...], (1, 2)),
        (["1", "2"], tuple[float, float], (1.0, 2.0)),
        (["a", "1"], tuple[str, int], ("a", 1)),
        (["1", "None"], tuple[int | None, ...], (1, None)),
        (["3"], int | tuple[int, ...], 3),
        (["3", "4"], int | tuple[int, ...], (3, 4)),
    ],
)
def test_words_become_values(words: list[str], kind: Any, value: Any) -> None:
    found = from_words(words, kind, "--x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "kind", "complaint"),
    [
        (["3.0"], int, "'3.0' is not a whole number"),
        (["nan"], float, "'nan' is not a number"),
        (["-inf"], float, "'-inf' is not a number"),
        (["none"], int | None, "'none' is not a whole number or None"),
        (["1"], bool, "'1' is not True or False"),
        (["fp8"], Choice, "'fp8' is not one of float32, bf16"),
        ([""], Path, "'' is not a path"),
        ([""], str, "'' is not a text"),
        (["1", "b"], tuple[int, ...], "'b' is not a whole number"),
        (["a", "b"], tuple[str, int], "'b' is not a whole number"),
        (["2", "x"], int | tuple[int, ...], "'x' is not a whole number or a list of whole numbers"),
        (
            ["1", "2", "3"],
            int | tuple[int, int],
            "'1 2 3' is not a whole number or a list of 2 whole numbers",
        ),
        (["1", "2"], int, "takes one value, 2 were given: 1 2"),
        (["1"], tuple[int, int], "takes 2 values, 1 were given: 1"),
        ([], tuple[int, ...], "a value is missing; it takes a list of whole numbers"),
        (["a"], dict[str, int], "cannot be set by an option (its type is dict[str, int])"),
    ],
)
def test_words_that_do_not_fit_are_named(words: list[str], kind: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_words(words, kind, "--x")
    assert str(caught.value) == f"--x: {complaint}"


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


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@pytest.mark.parametrize(
    ("words", "kind", "value"),
    [
        (["1", "2"], list[int], [1, 2]),
        (["3"], list[int], [3]),
        (["x", "y"], list[str] | None, ["x", "y"]),
        (["BLUE"], Colour, Colour.BLUE),
        (["None"], Colour | None, None),
    ],
)
def test_lists_and_members_of_an_enum(words: list[str], kind: object, value: object) -> None:
    assert from_words(words, kind, "--x") == value
    assert convert(plain(value), kind, "file") == value


def test_what_no_word_can_say_is_refused_as_that() -> None:
    with pytest.raises(ConfigError) as caught:
        from_words(["a", "1"], dict[str, int], "--x")
    assert str(caught.value) == "--x: cannot be set by an option (its type is dict[str, int])"
    with pytest.raises(ConfigError, match="--x: 'GREEN' is not one of RED, BLUE"):
        from_words(["GREEN"], Colour, "--x")
