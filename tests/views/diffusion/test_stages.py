from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from ssgear.errors import TrainingError
from ssgear.views.diffusion.stages import Stage, run

PATIENCE = 20.0


@dataclass
class Item:
    number: int
    seen: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


def recording(name: str, size: int) -> Stage[Item]:
    def work(rows: Sequence[Item]) -> None:
        for row in rows:
            row.seen.append((name, tuple(each.number for each in rows)))

    return Stage(name=name, batch_size=size, work=work)


def items(count: int) -> list[Item]:
    return [Item(number) for number in range(count)]


def test_each_stage_cuts_the_block_in_slices_of_its_own() -> None:
    rows = items(7)
    told = run((recording("a", 3), recording("b", 2), recording("c", 5)), rows)
    whole = list(range(7))
    for row in rows:
        expected = [
            (name, tuple(whole[row.number // size * size :][:size]))
            for name, size in (("a", 3), ("b", 2), ("c", 5))
        ]
        assert row.seen == expected
    assert set(told.seconds) == {"a", "b", "c"} and told.notes == []


def test_one_stage_needs_no_other() -> None:
    rows = items(3)
    run((recording("only", 2),), rows)
    assert [row.seen for row in rows] == [[("only", (0, 1))]] * 2 + [[("only", (2,))]]


def test_stages_overlap_and_the_last_is_in_the_callers_thread() -> None:
    later = threading.Event()
    threads = []

    def first(rows: Sequence[Item]) -> None:
        if rows[0].number == 4:  # by now the second stage has begun, or nothing overlaps
            assert later.wait(PATIENCE)
        threads.append(threading.current_thread())

    def second(rows: Sequence[Item]) -> None:
        later.set()
        assert threading.current_thread() is threading.main_thread()
        assert not torch.is_grad_enabled()

    run((Stage(name="a", batch_size=1, work=first), Stage(name="b", batch_size=1, work=second)),
        items(6))  # fmt: skip
    assert threading.main_thread() not in threads and torch.is_grad_enabled()


def test_queues_are_bounded() -> None:
    made, taken = [0], [0]
    furthest = [0]

    def first(rows: Sequence[Item]) -> None:
        made[0] += len(rows)
        furthest[0] = max(furthest[0], made[0] - taken[0])

    def second(rows: Sequence[Item]) -> None:
        threading.Event().wait(0.002)
        taken[0] += len(rows)

    run((Stage(name="a", batch_size=2, work=first), Stage(name="b", batch_size=2, work=second)),
        items(80))  # fmt: skip
    assert taken[0] == 80 and furthest[0] <= 4 + 3 * 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_ends_all_and_is_raised_here(place: int) -> None:
    before = threading.active_count()

    def fail(rows: Sequence[Item]) -> None:
        if rows[0].number >= 10:
            raise ValueError(f"stage {place}")

    stages = [recording("x", 2) for _ in range(3)]
    stages[place].work = fail
    with pytest.raises(ValueError, match=f"stage {place}"):
        run(stages, items(200))
    assert threading.active_count() == before


def test_no_memory_halves_slices_from_then_on() -> None:
    sizes: list[int] = []
    halved: list[bool] = []

    def work(rows: Sequence[Item]) -> None:
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("artificial")
        for row in rows:
            row.seen.append(("done", ()))

    stage = Stage(
        name="diffusion",
        batch_size=8,
        work=work,
        option="--diffusion-batch",
        when_halved=lambda: halved.append(True),
    )
    rows = items(12)
    told = run((stage,), rows)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    assert all(len(row.seen) == 1 for row in rows) and halved == [True, True]
    assert told.notes[0].startswith("diffusion: no GPU memory for 8 images at a time; it goes on")
    again = run((stage,), items(4))
    assert again.notes == [] and sizes[-2:] == [2, 2]


def test_not_even_one_fits() -> None:
    def work(rows: Sequence[Item]) -> None:
        raise torch.OutOfMemoryError("artificial")

    stage = Stage(name="upscale", batch_size=2, work=work, option="--upscale-batch")
    with pytest.raises(TrainingError, match="--upscale-batch: the GPU has no memory for upscale"):
        run((stage,), items(2))


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_no_memory_on_a_computer_is_a_line(size: int) -> None:
    def work(rows: Sequence[Item]) -> None:
        torch.empty(size, len(rows))

    stage = Stage(name="upscale", batch_size=4, work=work, option="--upscale-batch")
    with pytest.raises(TrainingError, match="this machine has no memory for upscale of one image"):
        run((stage,), [Item(number) for number in range(4)])


def test_other_errors_stay_what_they_are() -> None:
    def work(rows: Sequence[Item]) -> None:
        raise RuntimeError("mat1 and mat2 cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run((Stage(name="upscale", batch_size=4, work=work),), [Item(0)])
