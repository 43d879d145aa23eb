from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssgear.config.cli import parse
from ssgear.config.files import read_object
from ssgear.errors import ConfigError

NESTED = {
    "method": {"name": "moco", "queue_length": 64, "projector_dims": [32, 16]},
    "optim": {"lr": 1e-3, "weight-decay": 0, "micro_batch": None},
    "engine": {"compile": True, "precision": "bf16"},
    "data.path": "some dir",
}
YAML = """
# the same settings
method:
  name: moco
  queue_length: 64
  projector_dims: [32, 16]
optim:
  lr: 1e-3
  weight-decay: 0
  micro_batch: null
engine: {compile: true, precision: bf16}
data.path: some dir
"""


def written(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def complaint_of(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_object(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{file}:")
    return str(caught.value).removeprefix(str(file))


def test_json_is_read_as_written(tmp_path: Path) -> None:
    assert read_object(written(tmp_path, "run.json", json.dumps(NESTED))) == NESTED


@pytest.mark.parametrize("name", ["run.yaml", "run.YML"])
def test_yaml_says_the_same_as_json(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, YAML)
    assert read_object(file) == NESTED
    by_json = parse(["--config", str(written(tmp_path, "run.json", json.dumps(NESTED)))])
    by_yaml = parse(["--config", str(file)])
    assert by_yaml == by_json
    assert (by_yaml.config.method_name, by_yaml.config.optim.lr) == ("moco", 0.001)
    assert by_yaml.config.method.projector_dims == (32, 16)


def test_json_is_yaml_too(tmp_path: Path) -> None:
    assert read_object(written(tmp_path, "run.yaml", json.dumps(NESTED, indent=2))) == NESTED


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E4", -2e4), ("1.5e3", 1500.0), ("0.5", 0.5), ("1_000", 1000), ("7", 7)],
)
def test_numbers_of_yaml(tmp_path: Path, text: str, value: float) -> None:
    found = read_object(written(tmp_path, "run.yaml", f"a: {text}"))["a"]
    assert found == value
    assert type(found) is type(value)


def test_comments_of_json_are_read(tmp_path: Path) -> None:
    text = '\ufeff// first\n{"a": "// no # comment \\" /* */", # b\n /* over\n lines */ "b": 2e8}\n'
    assert read_object(written(tmp_path, "ds.json", text)) == {
        "a": '// no # comment " /* */',
        "b": 2e8,
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[1]", ": holds no JSON object; write {...} with settings in it"),
        (b"", ":1:1: is no JSON (Expecting value)"),
        (b"stage: 2", ":1:1: is no JSON (Expecting value)"),
        (b'{"a": 1,\n "b" 2}', ":2:6: is no JSON (Expecting ':' delimiter)"),
        (b"// x\n{'a': 1}", ":2:2: is no JSON (Expecting property name enclosed in double quotes)"),
        (b"\xff\xfe{}", ": is no text in UTF-8, so no JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', ": c is there twice; keep one"),
        (b'{"a": NaN}', ": NaN is not a number that JSON knows"),
        (b'{"a": ' * 100_000, ": is nested too deeply"),
    ],
)
def test_a_json_file_that_is_no_settings(tmp_path: Path, content: bytes, complaint: str) -> None:
    assert complaint_of(written(tmp_path, "run.json", content)) == complaint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"- 1\n- 2\n", ": holds no YAML object; write key: value with settings in it"),
        (b"", ": holds no YAML object; write key: value with settings in it"),
        (b"quick", ": holds no YAML object; write key: value with settings in it"),
        (b"a: 1\nb: [1, 2\nc: 3\n", ":3:2: is no YAML (expected ',' or ']', but got ':')"),
        (b"a: 1\n\tb: 2\n", ":2:1: is no YAML (found character '\\t' that cannot start any token)"),
        (b"a: !!python/name:os.system 1", ":1:4: is no YAML (could not determine a constructor"),
        (b"a: 1\n--- \nb: 2\n", ":2:1: is no YAML (but found another document)"),
        (b"a: \x07", ": is no YAML (special characters are not allowed)"),
        (b"\xff\xfe{}", ": is no text in UTF-8, so no YAML"),
        (b"seed: 1\nseed: 2\n", ": seed is there twice; keep one"),
        (b"a:\n  - b: 1\n    b: 2\n", ": b is there twice; keep one"),
        (b"a: &a\n  b: *a\n", ": is nested too deeply"),
        (b"[" * 5000, ": is nested too deeply"),
    ],
)
def test_a_yaml_file_that_is_no_settings(tmp_path: Path, content: bytes, complaint: str) -> None:
    assert complaint_of(written(tmp_path, "run.yaml", content)).startswith(complaint)


@pytest.mark.parametrize("name", ["none.json", "none.yaml"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    assert complaint_of(tmp_path / name) == ": cannot be read (No such file or directory)"
    assert complaint_of(tmp_path) == ": cannot be read (Is a directory)"


@pytest.mark.parametrize("name", ["run.json", "run.yaml"])
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, '{"optim": {"learning_rate": 1.0}}')
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(file)])
    wrong = "optim.learning_rate: unknown key (did you mean optim.lr?)"
    assert str(caught.value) == f"{file}: {wrong}"


@pytest.mark.parametrize("name", ["run.json", "run.yaml"])
def test_a_number_of_thousands_of_digits_is_one_line(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, '{"seed": ' + "9" * 5000 + "}")
    assert complaint_of(file).startswith(": Exceeds the limit (4300 digits)")


def test_numbers_of_yaml_are_those_of_json(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: -2\nc: 1.5e+2\nd: .5\ne: 0\nf: 010\ng: 1:30\nh: 2026-01-01\ni: 1_000\n"
    assert read_object(written(tmp_path, "run.yaml", text)) == {
        "a": 1e-3, "b": -2, "c": 150.0, "d": 0.5, "e": 0,
        "f": "010", "g": "1:30", "h": "2026-01-01", "i": 1000,
    }  # fmt: skip
