"""A pool of gloo ranks for tests.

Started once per module, because imports cost more than the cases.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Ranks:
    """`size` processes in one process group; `run` calls a function on all of them."""

    def __init__(self, size: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        self.connections: list[Connection] = []
        self.calls = 0
        self.processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, theirs), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
        """Call `function(*args)` on every rank and return the results in the order of ranks."""
        self.calls += 1
        for connection in self.connections:
            connection.send((self.calls, function, args))
        results = []
        for rank, connection in enumerate(self.connections):
            number = 0
            while number < self.calls:  # an answer that came too late belongs to an earlier call
                if not connection.poll(timeout):
                    raise TimeoutError(f"rank {rank} did not answer within {timeout} s")
                number, *answer = connection.recv()
            results.append(answer)
        failed = [text for ok, text in results if not ok]
        if failed:
            raise AssertionError("\n".join(failed))
        return [value for _, value in results]

    def close(self) -> None:
        """End the processes."""
        for connection, process in zip(self.connections, self.processes, strict=True):
            try:
                connection.send(None)
            except OSError:
                continue
            process.join(10)
            process.kill()


def _serve(rank: int, size: int, port: int, connection: Connection) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    while (call := connection.recv()) is not None:
        number, function, args = call
        try:
            connection.send((number, True, function(*args)))
        except BaseException:
            connection.send((number, False, f"rank {rank}:\n{traceback.format_exc()}"))
    dist.destroy_process_group()
