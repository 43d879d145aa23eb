"""JSON files of our own: one reader, and one wording for a file that is damaged.

    with reading(path, DataError):
        marker = Marker(**read_object(path))

A field that is absent or of another type is damage, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssgear.errors import SsgearError, refusing, unreadable


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else in the file is a ValueError."""
    return parse_object(path.read_bytes())


def parse_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that some bytes are; anything else is a ValueError."""
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


@contextmanager
def reading(
    where: Path | str, kind: type[SsgearError], *, hint: Callable[[], str] = str
) -> Iterator[None]:
    """Refuse a file that cannot be read or whose content is not what we write.

    `hint` says what to do about damage. That a file is not there is for the caller to tell:
    FileNotFoundError passes.
    """

    def refusal(error: OSError) -> SsgearError | None:
        is_absent = isinstance(error, FileNotFoundError)
        return None if is_absent else unreadable(where, kind)(error)

    def damaged(error: Exception) -> SsgearError:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        return kind(f"{where}: damaged: {reason}{hint()}")

    wrong = (ValueError, KeyError, TypeError, AttributeError)
    with refusing(wrong, damaged), refusing(OSError, refusal):
        yield
