"""Few threads, markers that skip with their reason, and the commands in this process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# before anything imports torch: tests share the cores with the ranks that they start
os.environ.setdefault("OMP_NUM_THREADS", "2")
# threads that wait sleep: where they spin, processes that share a core cost each other a third
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# parity tests of kernels draw fresh inputs in every run; ranks and interpreters inherit the seed
os.environ.setdefault("SSGEAR_TEST_SEED", str(secrets.randbelow(2**31)))

import pytest

if TYPE_CHECKING:
    from tests.ranks import Ranks


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the user's cache folder alone, also in what fixtures of modules do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another left in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pytest_report_header() -> str:
    """Name the seed that repeats this run's inputs."""
    return f"SSGEAR_TEST_SEED={os.environ['SSGEAR_TEST_SEED']}"


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Last line on standard error: the one that a user's mistake leaves."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@pytest.fixture
def run_ssgear(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `ssgear ARGUMENTS` in this process."""

    def run(*arguments: object) -> Outcome:
        from ssgear.__main__ import main

        capfd.readouterr()
        status: int | None
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int | None) else 1
        out, err = capfd.readouterr()
        return Outcome(status or 0, out, err)

    return run


@pytest.fixture(scope="module")
def pair() -> Iterator[Ranks]:
    """Two ranks, started when a module first asks for them."""
    from tests.ranks import Ranks

    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of real images that tests marked `data` read."""
    return Path(os.environ["SSGEAR_TEST_DATA"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    needs_data = [item for item in items if item.get_closest_marker("data")]
    if needs_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in needs_gpu:
                item.add_marker(pytest.mark.skip(reason="no GPU here"))
    if "SSGEAR_TEST_DATA" not in os.environ:
        for item in needs_data:
            item.add_marker(pytest.mark.skip(reason="SSGEAR_TEST_DATA names no folder"))
