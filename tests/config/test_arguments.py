from __future__ import annotations

from dataclasses import dataclass

import pytest

from ssgear.config.arguments import check, read, values_of
from ssgear.config.options import options_of
from ssgear.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Section:
    some_rate: float = 1.0
    some_flag: bool = False
    sizes: tuple[int, ...] = (1,)
    pair: tuple[int, int] = (1, 2)
    no_name: str = "x"


OPTIONS = options_of(Section, "a.")


def values(*argv: str) -> dict[str, object]:
    words, _ = read(argv)
    return values_of(check(words, OPTIONS))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--a.some-rate", "2"], {"a.some_rate": 2.0}),
        (["--a.some_rate=2"], {"a.some_rate": 2.0}),
        (["--a.some-rate", "-1e-3"], {"a.some_rate": -1e-3}),
        (["--a.some-rate", "2", "--a.some_rate", "3"], {"a.some_rate": 3.0}),
        (["--a.some-flag"], {"a.some_flag": True}),
        (["--a.some_flag", "True"], {"a.some_flag": True}),
        (["--a.some-flag=false"], {"a.some_flag": False}),
        (["--a.no-some-flag"], {"a.some_flag": False}),
        (["--a.no_some_flag", "--a.some-flag"], {"a.some_flag": True}),
        (["--a.sizes", "3", "4", "5"], {"a.sizes": (3, 4, 5)}),
        (["--a.pair", "3", "-4"], {"a.pair": (3, -4)}),
        (["--a.no-name", "--x"[2:]], {"a.no_name": "x"}),
        (["--a.no-name=--x=y"], {"a.no_name": "--x=y"}),
        (["--local_rank=3", "--a.sizes", "3"], {"a.sizes": (3,)}),
        (["--a.sizes", "3", "--local-rank", "1"], {"a.sizes": (3,)}),
        ([], {}),
    ],
)
def test_all_spellings_say_the_same(argv: list[str], expected: dict[str, object]) -> None:
    found = values(*argv)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["x"], "x: is no option; options start with -- (--help lists them)"),
        (
            ["/"],
            "/: is no option (did you mean --data.path /?); options start with -- "
            "(--help lists them)",
        ),
        (["-x"], "-x: unknown option; --method NAME --help lists every option"),
        (["--a.rate", "1"], "--a.rate: unknown option (did you mean --a.some-rate?)"),
        (["--a.no-flag"], "--a.no-flag: unknown option (did you mean --a.some-flag?)"),
        (["--a.some-rate"], "--a.some-rate: a value is missing; it takes a number"),
        (["--a.some-rate", "1", "2"], "--a.some-rate: takes one value, 2 were given: 1 2"),
        (["--a.pair", "1"], "--a.pair: takes 2 values, 1 were given: 1"),
        (["--a.sizes"], "--a.sizes: a value is missing; it takes a list of whole numbers"),
        (["--a.sizes", "1", "x"], "--a.sizes: 'x' is not a whole number"),
        (["--a.some_flag", "maybe"], "--a.some_flag: 'maybe' is not True or False"),
        (["--a.no-some-flag", "True"], "--a.no-some-flag: takes no value, 'True' was given"),
        (["--a.no-name", ""], "--a.no-name: '' is not a text"),
    ],
)
def test_a_mistake_is_one_line(argv: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        values(*argv)
    assert str(caught.value) == complaint


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_seen_anywhere(word: str) -> None:
    words, wanted = read(["--a.some-rate", "1", word])
    assert wanted
    assert [option.key for option in words] == ["a.some_rate"]
