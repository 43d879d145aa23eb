"""What stands in for `try`: errors translated into ours, and clean-ups of what failed."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

import pytest

from ssgear.errors import (
    CheckpointError,
    DataError,
    first_line,
    reason_of,
    refusing,
    undoing,
)


def denied(name: str = "cats") -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


def test_an_error_of_the_kind_is_translated_to_the_letter() -> None:
    with (
        pytest.raises(DataError) as raised,
        refusing(OSError, lambda error: DataError(f"{error.filename}: {reason_of(error)}")),
    ):
        raise denied()
    assert str(raised.value) == "cats: Permission denied"


def test_nothing_of_the_first_error_is_shown() -> None:
    with (
        pytest.raises(DataError) as raised,
        refusing((ValueError, KeyError), lambda error: DataError(f"damaged: {error}")),
    ):
        raise KeyError("weights")
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    assert "KeyError" not in "".join(traceback.format_exception(raised.value))


def test_other_errors_pass_unchanged() -> None:
    error = ZeroDivisionError("sum")
    with pytest.raises(ZeroDivisionError) as raised, refusing(OSError, lambda _: DataError("no")):
        raise error
    assert raised.value is error and error.__cause__ is None and not error.__suppress_context__


def test_an_error_that_is_not_refused_goes_on() -> None:
    full = OSError(errno.ENOSPC, "full")

    def refusal(error: OSError) -> DataError | None:
        return None if error.errno == errno.ENOSPC else DataError("unreadable")

    with pytest.raises(OSError) as raised, refusing(OSError, refusal):
        raise full
    assert raised.value is full
    with pytest.raises(DataError, match="unreadable"), refusing(OSError, refusal):
        raise denied()


@pytest.mark.parametrize(
    ("error", "text"), [(FileNotFoundError(), "absent"), (denied(), "unreadable")]
)
def test_the_special_case_stands_behind_the_general_one(error: OSError, text: str) -> None:
    with (
        pytest.raises(CheckpointError) as raised,
        refusing(OSError, lambda _: CheckpointError("unreadable")),
        refusing(FileNotFoundError, lambda _: CheckpointError("absent")),
    ):
        raise error
    assert str(raised.value) == text


def test_what_ends_well_is_left_alone(tmp_path: Path) -> None:
    def read() -> str:
        with refusing(OSError, lambda _: DataError("no")), undoing(file.unlink):
            return file.read_text()

    file = tmp_path / "file"
    file.write_text("content")
    assert read() == "content" and file.exists()


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_what_failed_is_undone_before_its_error_goes_on(error: BaseException) -> None:
    calls: list[str] = []
    with pytest.raises(type(error)) as raised, undoing(lambda: calls.append("undone")):
        raise error
    assert raised.value is error and calls == ["undone"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (denied(), "Permission denied"),
        (OSError("no number\nsecond line"), "no number"),
        (ValueError("bad\nworse"), "bad"),
        (EOFError(), "EOFError"),
    ],
)
def test_reasons_are_one_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert "\n" not in first_line(error)
