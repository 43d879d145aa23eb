"""A pool of gloo ranks for tests.

Started once per module, because imports cost more than the cases.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import traceback
from collections.abc import Callable, Sequence
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

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 600) -> list[Any]:
        """Call `function(*args)` on every rank and return the results in the order of ranks."""
        results = self.answers(range(len(self.connections)), function, *args, timeout=timeout)
        failed = [text for ok, text in results if not ok]
        if failed:
            raise AssertionError("\n".join(failed))
        return [value for _, value in results]

    def answers(
        self,
        ranks: Sequence[int],
        function: Callable[..., Any],
        *args: Any,
        also: Sequence[int] = (),
        timeout: float = 600,
    ) -> list[tuple[bool, Any]]:
        """Call it on some ranks; return for each whether it went well, and the result or why.

        `also` are ranks that are called and not waited for.
        """
        self.calls += 1
        for rank in (*ranks, *also):
            self.connections[rank].send((self.calls, function, args))
        return [self._answer(rank, timeout) for rank in ranks]

    def _answer(self, rank: int, timeout: float) -> tuple[bool, Any]:
        while True:
            if not self.connections[rank].poll(timeout):
                raise TimeoutError(f"rank {rank} did not answer within {timeout} s")
            number, ok, value = self.connections[rank].recv()
            if number == self.calls:  # one that came too late belongs to an earlier call
                return ok, value

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
