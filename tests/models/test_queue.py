"""Queues: contents after some steps by hand, over ranks too, and the nearest row by brute force."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError, ConfigError
from ssgear.models import queue as queues
from ssgear.models.queue import Queue, check_queue_length
from tests.ranks import Ranks


def batches() -> Tensor:
    return F.normalize(torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(1)), dim=2)


def pushed(count: int, rank: int = 0, world_size: int = 1) -> Queue:
    torch.manual_seed(0)
    queue = Queue(12, 3, seed_path="queue")
    share = 4 // world_size
    group = dist.group.WORLD if world_size > 1 else None
    for batch in batches()[:count]:
        queue.push(batch[rank * share : (rank + 1) * share], group)
    return queue


def test_it_starts_with_unit_rows_of_seed_and_path_alone() -> None:
    torch.manual_seed(0)
    start = Queue(12, 3, seed_path="queue")
    torch.testing.assert_close(start.rows.norm(dim=1), torch.ones(12))
    torch.manual_seed(0)
    assert not torch.equal(Queue(12, 3, seed_path="other").rows, start.rows)
    assert torch.equal(pushed(0).rows, start.rows)
    assert start.filled == 0 and len(start) == 12


def test_contents_after_three_and_four_steps() -> None:
    b = batches()
    after_two, after_four = pushed(2), pushed(4)
    assert torch.equal(after_two.rows, torch.cat((b[0], b[1], pushed(0).rows[8:])))
    assert (after_two.place, after_two.filled) == (8, 8)
    assert torch.equal(pushed(3).rows, torch.cat((b[0], b[1], b[2])))
    assert (pushed(3).place, pushed(3).filled) == (0, 12)
    assert torch.equal(after_four.rows, torch.cat((b[3], b[1], b[2])))
    assert (after_four.place, after_four.filled) == (4, 12)


def on_rank() -> dict[str, Tensor]:
    return pushed(4, dist.get_rank(), 2).state_dict()


def test_two_ranks_hold_the_queue_of_one_process(pair: Ranks) -> None:
    for state in pair.run(on_rank):
        for name, value in pushed(4).state_dict().items():
            assert torch.equal(state[name], value), name


def test_it_is_in_buffers_and_keeps_float32() -> None:
    queue = pushed(1)
    queue.push(batches()[1].bfloat16().requires_grad_())
    assert queue.rows.dtype == torch.float32 and not queue.rows.requires_grad
    assert {name for name, _ in queue.named_buffers()} == {"rows", "place", "filled"}


def test_of_more_rows_than_there_is_room_for_the_last_are_kept() -> None:
    queue = pushed(1)
    many = torch.arange(42.0).view(14, 3)
    queue.push(many)
    assert (queue.place, queue.filled) == (6, 12)  # 4 + 14 = 18
    assert torch.equal(torch.cat((queue.rows[6:], queue.rows[:6])), many[2:])


@pytest.mark.parametrize("shape", [(4, 2), (4,)])
def test_rows_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"do not fit a queue of \(12, 3\)"):
        pushed(0).push(torch.zeros(shape))


@pytest.mark.parametrize("block", [5, 8192])
def test_nearest_is_that_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "BLOCK", block)
    queue = Queue(23, 6, seed_path="queue")
    z = torch.randn(9, 6)
    similarity = z.double() @ queue.rows.double().T
    assert torch.equal(queue.nearest(z.requires_grad_()), queue.rows[similarity.argmax(1)])
    queue.rows[20] = queue.rows[3]
    assert torch.equal(queue.nearest(queue.rows[3:4]), queue.rows[3:4])


@pytest.mark.parametrize(
    ("length", "right"), [(1000, "768 or 1024"), (255, "256"), (0, "256"), (257, "256 or 512")]
)
def test_lengths_that_batches_do_not_fill(length: int, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_queue_length(length, 256)
    said = str(caught.value)
    assert said.startswith(f"--method.queue-length: {length} is no multiple of the 256 images")
    assert said.endswith(f"(--optim.batch-size); use {right}")
    check_queue_length(1024, 256)
