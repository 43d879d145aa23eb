"""Whole or absent: after success, after each failure, after a kill between writing and renaming."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ssgear.errors import undoing
from ssgear.storage import atomic


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def failing(code: int, at: int) -> Callable[..., Any]:
    """A system call that fails at its `at`-th use."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(code, os.strerror(code))

    return call


@contextmanager
def committed(final: Path) -> Iterator[Path]:
    """Yield a directory that is committed as `final`, or removed where that fails."""
    staged = atomic.staging_path(final)
    staged.mkdir(parents=True)
    with undoing(lambda: shutil.rmtree(staged)):
        yield staged
        atomic.commit_directory(staged, final)


def test_files_have_their_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a", b"\x00\x01")
    atomic.write_text(tmp_path / "b", "grüße\n")
    atomic.write_json(tmp_path / "c.json", {"x": (1, 2.5), "nan": float("nan"), "p": Path("q")})
    assert (tmp_path / "a").read_bytes() == b"\x00\x01"
    assert (tmp_path / "b").read_text("utf-8") == "grüße\n"
    assert json.loads((tmp_path / "c.json").read_text()) == {"x": [1, 2.5], "nan": None, "p": "q"}
    atomic.write_text(tmp_path / "b", "new")
    assert (tmp_path / "b").read_text() == "new"
    assert names(tmp_path) == ["a", "b", "c.json"]


def test_an_object_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "c.json", [1])
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "c.json", {"x": object()})
    assert json.loads((tmp_path / "c.json").read_text()) == [1]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_while_writing_a_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC, 0))
    with pytest.raises(OSError) as caught:
        atomic.write_text(tmp_path / "a", "new")
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_files_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    atomic.write_files(files)
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC, 1))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        atomic.write_files({path: b"new" for path in files})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_committed_directory_appears_complete(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "step-7"
    with committed(final) as staged:
        assert staged.parent == final.parent and staged.name.startswith(atomic.PREFIX)
        (staged / "sub").mkdir()
        (staged / "sub" / "x").write_text("1")
        assert not final.exists()
    assert (final / "sub" / "x").read_text() == "1"
    assert names(final.parent) == ["step-7"]


def test_a_committed_directory_replaces_an_older_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with committed(tmp_path / "step-7") as staged:
            (staged / content).touch()
    assert names(tmp_path / "step-7") == ["new"] and names(tmp_path) == ["step-7"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_an_error_inside_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with (
        pytest.raises(type(error)),
        committed(tmp_path / "step-7") as staged,
    ):
        (staged / "half").write_text("x")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize(("call", "at"), [("fsync", 0), ("fsync", 1), ("rename", 0), ("rename", 1)])
def test_full_disk_at_every_call_of_a_commit(
    call: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committed(tmp_path / "step-7") as staged:
        (staged / "old").touch()
    real = os.rename
    broken = failing(errno.ENOSPC, at)
    state = {"done": False}

    def once(*args: Any) -> None:
        if not state["done"]:
            try:
                broken()
            except OSError:
                state["done"] = True
                raise
        if call == "rename":
            real(*args)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError) as caught,
        committed(tmp_path / "step-7") as staged,
    ):
        (staged / "new").touch()
        patch.setattr(os, call, once)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["step-7"] and names(tmp_path / "step-7") == ["old"]


def run(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_write_that_the_system_cuts_short(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a", b"old")
    process = run(
        """
        import resource, sys, pathlib
        from ssgear.storage import atomic
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            atomic.write_bytes(pathlib.Path(sys.argv[1]), b"x" * 100_000)
        except OSError as error:
            print(error.errno)
        """,
        tmp_path / "a",
    )
    output, _ = process.communicate(timeout=30)
    assert int(output) == errno.EFBIG
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_kill_between_write_and_rename(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "latest", "step-1")
    process = run(
        """
        import os, sys, time, pathlib
        from ssgear.storage import atomic
        root = pathlib.Path(sys.argv[1])
        def stop(*args):
            print("ready", flush=True)
            time.sleep(60)
        staged = atomic.staging_path(root / "step-2")
        staged.mkdir()
        (staged / "weights").write_bytes(b"x" * 10_000)
        os.replace = stop
        atomic.write_text(root / "latest", "step-2")
        """,
        tmp_path,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert (tmp_path / "latest").read_text() == "step-1"
    assert not (tmp_path / "step-2").exists()
    assert len(atomic.remove_stale(tmp_path)) == 2
    assert names(tmp_path) == ["latest"]


def test_remove_stale_keeps_everything_else(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / ".hidden").touch()
    (tmp_path / "ssgear-partial-x").touch()
    assert atomic.remove_stale(tmp_path) == []
    assert atomic.remove_stale(tmp_path / "absent") == []
    assert names(tmp_path) == [".hidden", "ssgear-partial-x", "step-1"]


def test_a_staged_file_appears_when_its_block_ends_well(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic.staged_file(final) as file:
        file.write(b"half")
        raise RuntimeError
    assert final.read_bytes() == b"old" and names(tmp_path) == ["final"]
    with atomic.staged_file(final) as file:
        file.write(b"new")
        assert final.read_bytes() == b"old"
    assert final.read_bytes() == b"new" and names(tmp_path) == ["final"]


def test_a_staged_file_that_cannot_be_synced_vanishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC, 0))
    with pytest.raises(OSError, match="No space"), atomic.staged_file(tmp_path / "final") as file:
        file.write(b"new")
    assert names(tmp_path) == []
