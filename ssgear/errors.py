"""One family of errors: what was wrong, where it stands, what would be right, in one line each.

A user's mistake is a `SsgearError`: the commands print `ssgear: MESSAGE` on standard error and exit
with status 2. Anything else that is raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class SsgearError(Exception):
    """A mistake that a user can mend; its text is one line."""

    exit_status = 2


class ConfigError(SsgearError):
    """An option, preset, method or ds.json entry that is wrong or contradicts another."""


class IdleError(ConfigError):
    """An option was changed while what it belongs to is switched off."""

    def __init__(self, text: str, field: str) -> None:
        """Remember the field of the settings whose option it is."""
        super().__init__(text)
        self.field = field


class ArgumentError(SsgearError, ValueError):
    """A public function was called with an argument that it cannot take."""


class DataError(SsgearError):
    """A path, archive, label file or image that cannot be used."""


class CheckpointError(SsgearError):
    """A run directory or checkpoint that is absent, incomplete, or of another configuration."""


class MissingDependencyError(SsgearError):
    """An optional package is needed and not installed."""


class StorageError(SsgearError):
    """The disk is full, read-only, or cannot be written for another reason of its own."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end: outside the training loop, or for a second time in it."""

    def __init__(self, number: int) -> None:
        """Remember the signal; the exit status is the shell's for it."""
        super().__init__()
        self.number = number


class TrainingError(SsgearError):
    """A run that cannot go on: a loss that is not finite, a rank that is gone."""


class GenerationError(SsgearError):
    """Views that cannot be made: a worker that ends again and again at one shard."""


GPU_MEMORY = "GPU memory"
_GPU_FULL = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_FULL = ("allocate memory", "calculation overflowed", "multiplication overflow")
"""What torch says where the computer has no memory, in place of an error of its own."""
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system answers where nothing more can be written."""


def lacking_memory(error: BaseException) -> str | None:
    """Return what a call was short of, "memory" or `GPU_MEMORY`; None: it failed otherwise."""
    from torch import OutOfMemoryError  # not with this module: --help needs no torch

    said = str(error)
    if isinstance(error, OutOfMemoryError) or any(words in said for words in _GPU_FULL):
        return GPU_MEMORY
    full = isinstance(error, MemoryError) or any(words in said for words in _FULL)
    return "memory" if full else None


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason_of(error: BaseException) -> str:
    """Return why the system refused a call ("Permission denied"), else the first line."""
    return getattr(error, "strerror", None) or first_line(error)


@contextmanager
def refusing(
    kinds: type[E] | tuple[type[E], ...], refusal: Callable[[E], BaseException | None]
) -> Iterator[None]:
    """Raise what `refusal` makes of an error of these kinds in its place, without a trace of it.

        with refusing(OSError, lambda error: DataError(f"{path}: {reason_of(error)}")):
            data = path.read_bytes()

    Where `refusal` returns None the error itself goes on. Of several in one statement the last one
    is asked first, so that the special case stands behind the general one:
    `with refusing(OSError, unreadable), refusing(FileNotFoundError, absent):`. What one of them
    raises passes the others, unless it is of their kinds too.
    """
    try:
        yield
    except kinds as error:
        translated = refusal(error)
        if translated is None:
            raise
        raise translated from None


def unreadable(
    where: Path | str, kind: type[SsgearError] = DataError
) -> Callable[[BaseException], SsgearError]:
    """Return the refusal that says of a file that it cannot be read, and why."""
    return lambda error: kind(f"{where}: cannot be read: {reason_of(error)}")


def refusing_lack(
    refusal: Callable[[str], BaseException],
) -> AbstractContextManager[None]:
    """Raise what `refusal` makes of "memory" or `GPU_MEMORY` where a block runs out of it."""

    def translated(error: Exception) -> BaseException | None:
        lacking = lacking_memory(error)
        return None if lacking is None else refusal(lacking)

    return refusing((RuntimeError, MemoryError), translated)


def refusing_full_disk(
    refusal: Callable[[OSError], BaseException],
) -> AbstractContextManager[None]:
    """Raise what `refusal` makes of an error of a block that can write nothing more."""
    return refusing(OSError, lambda error: refusal(error) if error.errno in OUT_OF_SPACE else None)


@contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` where the block fails, interrupted or not; its error goes on."""
    try:
        yield
    except BaseException:
        undo()
        raise


def require(condition: bool, option: str, value: object, right: str) -> None:
    """Refuse the value of an option, and say what would be right."""
    if not condition:
        raise ConfigError(f"{option}: {value} is not possible; {right}")


def refuse_idle(settings: Any, switches: Mapping[str, tuple[bool, tuple[str, ...]]]) -> None:
    """Refuse a method's option that was changed while what it belongs to is switched off.

    `switches` has how a thing is switched on, whether it is, and the fields that are for it.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for switch, (is_on, names) in switches.items():
        for name in names:
            value, usual = getattr(settings, name), defaults[name]
            if not is_on and value != usual:
                right = f"it is for {switch}; leave it away (it is {usual} then)"
                option = f"--method.{name.replace('_', '-')}"
                raise IdleError(f"{option}: {value} is not possible; {right}", name)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean X?)` for the nearest known word, or an empty string where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""
