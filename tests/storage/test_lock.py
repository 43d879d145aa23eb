"""Claims: one holder at a time, nothing left behind, also by a holder that is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ssgear.errors import CheckpointError
from ssgear.storage.lock import claimed, hold


def test_one_holder_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with claimed(path) as one, claimed(path) as two:
        assert one is not None and one.exclusive and two is None
        assert path.exists()
    assert not path.exists()
    with claimed(path) as again:
        assert again is not None


def test_a_waiting_one_gets_it_afterwards(tmp_path: Path) -> None:
    path, order = tmp_path / "claim", []

    def wait() -> None:
        with claimed(path, wait=True) as claim:
            assert claim is not None and claim.exclusive and path.exists()
            order.append("second")

    with claimed(path):
        others = [threading.Thread(target=wait) for _ in range(3)]
        for other in others:
            other.start()
        order.append("first")
    for other in others:
        other.join(20)
    assert order == ["first", "second", "second", "second"] and not path.exists()


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    program = (
        "import pathlib, sys, time\nfrom ssgear.storage.lock import claimed\n"
        f"with claimed(pathlib.Path({str(path)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with claimed(path) as claim:
        assert claim is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.exists()
    with claimed(path) as claim:
        assert claim is not None and claim.exclusive
    assert not path.exists()


def test_a_file_system_without_locks_grants_everything_but_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: object, how: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", none)
    with claimed(tmp_path / "claim") as one, claimed(tmp_path / "claim") as two:
        assert one is not None and two is not None
        assert not one.exclusive and not two.exclusive


def test_a_forked_worker_does_not_keep_the_lock_of_a_run(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    there, tell = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(tell, b".")
        signal.pause()
        os._exit(0)
    try:
        os.read(there, 1)
        with pytest.raises(CheckpointError, match="another run writes into"):
            hold(tmp_path)
        lock.close()
        hold(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
