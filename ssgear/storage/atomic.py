"""Files and directories that are there whole or not at all.

Everything is written under a temporary name beside its final one (`.ssgear-partial-...`), synced
to the disk and renamed. A full disk, an exception or a `kill -9` leaves what stood there before;
`remove_stale` clears what a kill left behind. Errors of the system (`OSError`, "no space left"
among them) pass through after the clean-up.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

from ssgear.errors import undoing

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | Path | str | float | None"
"""What can be written as JSON; a path becomes its text."""
PREFIX = ".ssgear-partial-"
"""How the name of everything begins that is not finished yet."""
_CANNOT_SYNC_DIRECTORIES = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP}
"""Answers of file systems (FUSE, CIFS) that sync files but not directories."""


def staging_path(final: Path) -> Path:
    """Return a fresh temporary name beside `final`."""
    return final.with_name(f"{PREFIX}{final.name}-{os.getpid()}-{secrets.token_hex(4)}")


def write_bytes(path: Path, data: bytes | memoryview, *, mode: int = 0o666) -> None:
    """Write a file; a reader sees the old content or the new one, never a part."""
    write_files({path: data}, mode=mode)


def write_files(files: Mapping[Path, bytes | memoryview], *, mode: int = 0o666) -> None:
    """Write files that belong together: all are on the disk before the first is renamed.

    `mode` are their permissions, less what the process's mask forbids.
    """
    staged = {path: staging_path(path) for path in files}
    with undoing(lambda: _remove(staged.values())):
        for path, data in files.items():
            with open(staged[path], "xb", opener=partial(os.open, mode=mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            os.replace(staged[path], path)
        for parent in {path.parent for path in files}:
            _sync_directory(parent)


@contextmanager
def staged_file(final: Path) -> Iterator[IO[bytes]]:
    """Yield a file that becomes `final` when the block ends well, and else vanishes."""
    staged = staging_path(final)
    with undoing(lambda: _remove([staged])):
        with open(staged, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, final)
        _sync_directory(final.parent)


def place_file(source: Path, final: Path) -> None:
    """Make `final` the same file as `source`, or a copy of it where it cannot be linked.

    Neither may be written in place later, as nothing is by this module.
    """
    staged = staging_path(final)
    try:
        os.link(source, staged)
        os.replace(staged, final)
        _sync_directory(final.parent)
    except OSError:  # another disk, a file system without links, somebody else's file
        with staged_file(final) as file, open(source, "rb") as original:
            shutil.copyfileobj(original, file, 1 << 20)
    finally:
        staged.unlink(missing_ok=True)  # it stays where `final` was this very file before


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, obj: Json) -> None:
    """Write an object as JSON, whole or not at all; NaN and infinities become null."""
    write_text(path, json_text(obj))


def json_text(obj: Json) -> str:
    """Return the text that `write_json` writes."""
    return json.dumps(_plain(obj), indent=2, allow_nan=False) + "\n"


def commit_directory(staged: Path, final: Path) -> None:
    """Sync every file under `staged` and rename it to `final`, in place of what stood there."""
    _sync_tree(staged)
    old = staging_path(final)
    with ExitStack() as stack:
        if final.exists():
            os.rename(final, old)  # a directory cannot be renamed onto one that is not empty
            stack.enter_context(undoing(lambda: os.rename(old, final)))
        os.rename(staged, final)
    shutil.rmtree(old, ignore_errors=True)
    _sync_directory(final.parent)


def remove_stale(parent: Path) -> list[Path]:
    """Remove what killed writers left in `parent` and return it; nobody else may write there."""
    stale = sorted(parent.glob(PREFIX + "*")) if parent.is_dir() else []
    for path in stale:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return stale


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _sync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            _sync(Path(directory, name), os.O_RDONLY)
        _sync_directory(Path(directory))


def _sync_directory(path: Path) -> None:
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_DIRECTORIES:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(obj: Json) -> Json:
    if isinstance(obj, Mapping):
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return str(obj) if isinstance(obj, Path) else obj
