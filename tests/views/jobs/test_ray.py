"""Workers by Ray: the same shards as one worker's; what cannot be reached or had is one line."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssgear.errors import ConfigError, MissingDependencyError
from ssgear.views.jobs import ray as _ray
from ssgear.views.jobs.ray import plan
from tests.data.view_stores import folder

Ssgear = Callable[..., Any]
QUICK = ("--generator", "tests.views.stand_ins:Quick", "--shard-size", 7)


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("0*")}


@pytest.mark.timeout(600)
def test_two_actors_make_the_shards_of_one_worker(
    run_ssgear: Ssgear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    images = folder(tmp_path / "images", 9)
    words = (*QUICK, "--source-side", 16, "--data.path", images, "--data.test-share", 0)
    words = (*words, "--views", 3, "--fail-every", 5, "--upscale")
    assert run_ssgear("generate", *words, "--output", tmp_path / "one").status == 0
    monkeypatch.chdir(tmp_path)  # relative paths mean the same to an actor
    ray = ("--executor", "ray", "--workers", 2, "--output", "ray", "--die-once", "died")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    done = run_ssgear("generate", *words, *ray)
    assert done.status == 0, done.err
    assert (tmp_path / "died").exists() and "a worker ended at shard " in done.err
    assert (
        shards(tmp_path / "ray") == shards(tmp_path / "one") and len(shards(tmp_path / "one")) == 8
    )
    assert not list((tmp_path / "ray").glob(".ssgear*"))
    assert "Traceback" not in done.err and all(
        # without a network Ray's core says in a line of its own that it found no address outside
        x.startswith(("ssgear: ", "[20"))
        for x in done.err.splitlines()
    )
    import ray as package

    assert not package.is_initialized()


MACHINES = {"CPU": 6.0, "GPU": 0.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "planned"),
    [
        ([MACHINES, MACHINES], "auto", None, ("cpu", 6, 2)),
        ([{"CPU": 5}, {"CPU": 5}], "cpu", 3, ("cpu", 2, 3)),
        ([{"CPU": 2}, {"CPU": 9}], "auto", None, ("cpu", 4, 2)),
        ([{"CPU": 2}, {"CPU": 2}], "auto", 4, ("cpu", 1, 4)),
        ([{"CPU": 2}, {}], "auto", None, ("cpu", 2, 1)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}, {"CPU": 2}], "auto", None, ("cuda", 1, 6)),
        ([{"CPU": 8, "GPU": 4}], "cuda", 3, ("cuda", 1, 3)),
        ([{"CPU": 8, "GPU": 4}], "cpu", None, ("cpu", 8, 1)),
    ],
)
def test_workers_fit_the_machines(
    nodes: list[dict[str, float]], device: str, workers: int | None, planned: tuple[str, int, int]
) -> None:
    kind, needs, count = plan(nodes, device, workers)
    assert (kind, needs["num_cpus"], count) == planned
    assert needs["num_gpus"] == (1 if kind == "cuda" else 0)


def test_too_many_workers_and_no_gpu() -> None:
    with pytest.raises(ConfigError, match="--workers: 5 is not possible; the cluster has 4 proc"):
        plan([{"CPU": 2}, {"CPU": 2}], "auto", 5)
    with pytest.raises(ConfigError, match="--workers: 5 is not possible; the cluster has 4 GPUs"):
        plan([{"CPU": 2, "GPU": 4}], "auto", 5)
    with pytest.raises(ConfigError, match="--device: cuda is not possible, the cluster has no GPU"):
        plan([{"CPU": 2}], "cuda", None)


def test_an_address_where_nobody_is(run_ssgear: Ssgear, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    words = (*QUICK, "--count", 3, "--output", tmp_path / "store")
    for address, said in (
        (f"127.0.0.1:{port}", "cannot be reached ([Errno 111] Connection refused); does the head"),
        ("ray://127.0.0.1:10001", "is not possible; use HOST:PORT of the head node"),
        ("nowhere", "is not possible; use HOST:PORT of the head node"),
    ):
        done = run_ssgear("generate", *words, "--executor", "ray", "--ray-address", address)
        assert done.status == 2 and done.err.count("\n") == 1
        assert done.err.startswith(f"ssgear: --ray-address: {address} {said}"), done.err
    done = run_ssgear("generate", *words, "--ray-address", "auto")
    assert done.err == "ssgear: --ray-address: auto is not possible; it goes with --executor ray\n"
    assert not (tmp_path / "store").exists()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingDependencyError, match=r'--executor: ray .*pip install "ssgear\[ray\]"'
    ):
        _ray.Cluster("gan", None, "cpu", None, None)


def test_a_machine_that_does_not_see_the_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output: the machine .* does not see .*store; name"):
        _ray._check_shared(tmp_path / "store")
