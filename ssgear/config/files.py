"""Files of settings: a JSON object, or a YAML mapping where the name ends in .yaml or .yml.

In JSON `//`, `#` and `/* */` may begin comments. A key that stands twice in one block, a damaged
file and one that holds no mapping are refused in one line with the file's name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ssgear.errors import ConfigError, first_line, reason_of, refusing

YAML = (".yaml", ".yml")
_NUMBERS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9_]*)$"),
    "float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
}
"""What is a number: 1e-3 is one, unlike in YAML 1.1, and neither 010 nor 1:30 is another one."""


def read_object(path: Path, option: str | None = None) -> dict[str, object]:
    """Read a file of settings; `option` is named where it cannot be read."""

    def unreadable(error: OSError) -> ConfigError:
        where = path if option is None else f"{option}: {path}"
        return ConfigError(f"{where}: cannot be read ({reason_of(error)})")

    def no_text(error: UnicodeDecodeError) -> ConfigError:
        return ConfigError(f"{path}: is no text in UTF-8, so no {kind}")

    def too_deep(error: RecursionError) -> ConfigError:
        return ConfigError(f"{path}: is nested too deeply")

    def no_value(error: ValueError) -> ConfigError:  # whole numbers of thousands of digits
        return ConfigError(f"{path}: {first_line(error)}")

    kind, parse = ("YAML", _from_yaml) if path.suffix.lower() in YAML else ("JSON", _from_json)
    with refusing(OSError, unreadable), refusing(UnicodeDecodeError, no_text):
        text = path.read_text(encoding="utf-8-sig")
    with refusing(ValueError, no_value), refusing(RecursionError, too_deep):
        value = parse(text, path)
    if not isinstance(value, dict):
        example = "{...}" if kind == "JSON" else "key: value"
        raise ConfigError(f"{path}: holds no {kind} object; write {example} with settings in it")
    return value


def _check_once(keys: Iterable[object], path: Path) -> None:
    for key, count in Counter(keys).items():
        if count > 1:
            raise ConfigError(f"{path}: {key} is there twice; keep one")


def _from_json(text: str, path: Path) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        _check_once((key for key, _ in pairs), path)
        return dict(pairs)

    def no_number(name: str) -> float:
        raise ConfigError(f"{path}: {name} is not a number that JSON knows")

    def damaged(error: json.JSONDecodeError) -> ConfigError:
        return ConfigError(f"{path}:{error.lineno}:{error.colno}: is no JSON ({error.msg})")

    with refusing(json.JSONDecodeError, damaged):
        return json.loads(_blank_comments(text), object_pairs_hook=once, parse_constant=no_number)


def _blank_comments(text: str) -> str:
    """Put spaces in place of comments, so that lines and columns stay what they were."""
    token = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/\*.*?\*/', re.DOTALL)

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return token.sub(blank, text)


def _from_yaml(text: str, path: Path) -> object:
    import yaml

    def damaged(error: yaml.YAMLError) -> ConfigError:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "damaged")
        return ConfigError(f"{place}: is no YAML ({problem})")

    def check_keys(node: yaml.Node) -> None:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        _check_once((key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)), path)
        children = [value for _, value in pairs]
        for child in children or (node.value if isinstance(node, yaml.SequenceNode) else ()):
            check_keys(child)

    with refusing(yaml.YAMLError, damaged):
        loader = yaml.SafeLoader(text)
        numbers = [(f"tag:yaml.org,2002:{name}", rule) for name, rule in _NUMBERS.items()]
        resolvers = loader.yaml_implicit_resolvers
        loader.yaml_implicit_resolvers = {
            **resolvers, **dict.fromkeys("-+.0123456789", numbers),
        }  # fmt: skip
        node = loader.get_single_node()
        if node is None:
            return None
        check_keys(node)
        return loader.construct_document(node)
