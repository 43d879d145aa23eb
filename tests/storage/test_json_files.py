"""One reader of our own JSON files, and one wording for what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssgear.errors import CheckpointError, DataError
from ssgear.storage.json_files import read_object, reading

DAMAGE: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"size": ', "Expecting value"),
    "a list": (b"[1]", "not a JSON object"),
    "no text": (b'{"size": "\xff"}', "'utf-8' codec"),
    "a key is missing": (b"{}", "size is missing"),
    "another type": (b'{"size": null}', "int\\(\\) argument"),
    "another value": (b'{"size": "x"}', "invalid literal"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_line_with_the_file_and_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = DAMAGE[case]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with (
        pytest.raises(CheckpointError, match=f"^{path}: damaged: .*{reason}.*; an older one") as e,
        reading(path, CheckpointError, hint=lambda: "; an older one is there"),
    ):
        int(read_object(path)["size"])
    assert "\n" not in str(e.value)


def test_a_file_that_cannot_be_read_is_not_damaged(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"^--store: x: cannot be read: Is a directory$"),
        reading("--store: x", DataError),
    ):
        read_object(tmp_path)


def test_an_absent_file_and_our_own_errors_are_the_callers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), reading(tmp_path, DataError):
        read_object(tmp_path / "file.json")
    with pytest.raises(DataError, match="format 9"), reading(tmp_path, CheckpointError):
        raise DataError("format 9")


def test_what_is_whole_is_returned(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"name": "\N{LATIN SMALL LETTER E WITH ACUTE}"}', "utf-8")
    assert read_object(tmp_path / "file.json") == {"name": "\xe9"}
