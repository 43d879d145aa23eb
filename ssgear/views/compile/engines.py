"""Compiled parts of models between runs: folders in the user's cache, named by what they depend on.

    key = key_of({"weights": fingerprint(module), "shapes": ..., "versions": ...})
    with locked(key):
        folder = find(key)                           # None: not there, damaged, or somebody else's
        with making(key) as folder: ...              # whole or not at all

They stand in $XDG_CACHE_HOME/ssgear/engines, which nobody but its owner can look into: loading an
engine runs what is in it. Each has a list of its files with their digests; one that does not agree
counts as absent. One that nobody used for a season is removed. They can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import undoing
from ssgear.storage import atomic, cache
from ssgear.storage.store_marker import digest_of_file

if TYPE_CHECKING:
    from torch import nn

LIST = "engine.json"
_UNUSED_S = 90 * 24 * 3600


def folder() -> Path:
    """Return the folder of the engines, whether it is there or not."""
    return cache.folder() / "engines"


def key_of(facts: Mapping[str, object]) -> str:
    """Return the name of an engine for all that it depends on (plain JSON)."""
    text = json.dumps(facts, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def fingerprint(module: nn.Module) -> str:
    """Return a digest of a module: its layers, what replaces their forward, and every weight."""
    import torch

    digest = hashlib.blake2b(repr(module).encode(), digest_size=16)
    for name, child in module.named_modules():
        patched = vars(child).get("forward")
        processor = getattr(child, "processor", None)
        digest.update(f"{name} {_origin(patched)} {_origin(processor)}".encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(memoryview(plain.numpy()))
    return digest.hexdigest()


def _origin(thing: object) -> str:
    """Name what stands in for a module's own code, without an address of this process."""
    if thing is None:
        return ""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def find(key: str) -> Path | None:
    """Return the folder of an engine that is whole and this user's own."""
    engine = folder() / key
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if _private(folder()) and _private(engine):
            listed = json.loads((engine / LIST).read_text("utf-8"))
            if listed == {"key": key, "files": _digests(engine)}:
                os.utime(engine)  # it is in use
                return engine
    return None


@contextlib.contextmanager
def making(key: str) -> Iterator[Path]:
    """Yield an empty folder that becomes the engine when the block ends well, and else vanishes.

    Where the cache cannot be written, it is a folder of this process that vanishes as well.
    """
    staged = _staged(key)
    if staged is None:
        # what has been loaded stays, as it does where the folder moves to its place
        with tempfile.TemporaryDirectory(
            prefix="ssgear-engine-", ignore_cleanup_errors=True
        ) as own:
            yield Path(own)
        return
    with undoing(lambda: shutil.rmtree(staged, ignore_errors=True)):
        yield staged
        seal(staged, key)
        atomic.commit_directory(staged, folder() / key)
        _remove_unused()


def seal(engine: Path, key: str) -> None:
    """Write the list of an engine's files and let nobody else read them."""
    for path in _files(engine):
        path.chmod(0o600)
    text = atomic.json_text({"key": key, "files": _digests(engine)})
    atomic.write_bytes(engine / LIST, text.encode(), mode=0o600)


def remove(key: str) -> None:
    """Remove an engine."""
    shutil.rmtree(folder() / key, ignore_errors=True)


def locked(key: str) -> contextlib.AbstractContextManager[None]:
    """Hold an engine's lock: of several processes one builds it, the others wait and take it."""
    return cache.locked("engine", folder() / key)


def _staged(key: str) -> Path | None:
    with contextlib.suppress(OSError, RuntimeError):
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(folder()) and _own(folder()):
            folder().chmod(0o700)
        if not _private(folder()):
            return None
        staged = atomic.staging_path(folder() / key)
        staged.mkdir(mode=0o700)
        return staged
    return None


def _own(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _private(path: Path) -> bool:
    """Whether a folder is this user's own, no link, and closed to everybody else."""
    return _own(path) and not path.lstat().st_mode & 0o077


def _files(engine: Path) -> list[Path]:
    return [path for path in engine.iterdir() if path.name != LIST]


def _digests(engine: Path) -> dict[str, str]:
    """Return the digest of each file of an engine, by its name."""
    return {path.name: digest_of_file(path) for path in _files(engine)}


def _remove_unused() -> None:
    """Remove engines that nobody used for a season, and what killed builds left behind."""
    oldest = time.time() - _UNUSED_S
    for path in folder().iterdir():
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < oldest:
                shutil.rmtree(path)
