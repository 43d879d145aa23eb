from __future__ import annotations

from pathlib import Path

import torch

from ssgear.evaluation.memory import Memory, read_outcome, write_outcome
from ssgear.evaluation.results import Exhibit, Measure, Outcome

VIEWS = torch.arange(12.0).view(4, 3).T.split(2)
"""Parts of one tensor, whose rows are not contiguous."""
OUTCOME = Outcome(
    measures={
        "knn": Measure(
            value=0.75, interval=(0.5, 0.9), num_train=9, num_test=4,
            per_image=torch.tensor([1, 0, 1, 1], dtype=torch.uint8),
            predicted=torch.tensor([[2, 1], [0, 1], [1, 0], [2, 0]]),
        ),
        "mlp_probe@0.1": Measure(value=0.5, values=(0.25, 0.75), deviation=0.35),
    },
    statements={"fid_protocol": "ten images"},
    notes=("one class is unseen",),
    exhibits=(
        Exhibit(
            kind="similarity", title="a", fields={"rows": ["x"]},
            tensors={"m": VIEWS[0], "n": VIEWS[1]},
        ),
        Exhibit(kind="invariance", title="b", fields={"flip": [[1.0, 0.5]]}),
    ),
)  # fmt: skip


def same(a: Outcome, b: Outcome) -> bool:
    for left, right in zip(a.exhibits, b.exhibits, strict=True):
        assert (left.kind, left.title, left.fields) == (right.kind, right.title, right.fields)
        assert left.tensors.keys() == right.tensors.keys()
        assert all(torch.equal(left.tensors[key], right.tensors[key]) for key in left.tensors)
    assert (a.statements, a.notes) == (b.statements, b.notes)
    for name, measure in a.measures.items():
        other = b.measures[name]
        assert measure.fields() == other.fields() and measure.value == other.value
        for part in ("per_image", "predicted"):
            x, y = getattr(measure, part), getattr(other, part)
            assert (x is None and y is None) or torch.equal(x, y)
    return a.measures.keys() == b.measures.keys()


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_outcome(tmp_path / "a.json", OUTCOME)
    again = read_outcome(tmp_path / "a.json")
    assert again is not None and same(OUTCOME, again)
    write_outcome(tmp_path / "b.json", Outcome())
    empty = read_outcome(tmp_path / "b.json")
    assert empty is not None and same(Outcome(), empty)


def test_an_outcome_is_computed_once_and_again_where_it_is_damaged(tmp_path: Path) -> None:
    memory, calls = Memory(folder=tmp_path / "features"), []

    def compute() -> Outcome:
        calls.append(1)
        return OUTCOME

    assert memory.outcome("k", compute) == (OUTCOME, False)
    outcome, is_known = memory.outcome("k", compute)
    assert is_known and same(outcome, OUTCOME) and len(calls) == 1
    for name, content in (("k.safetensors", b"x"), ("k.json", b"{}"), ("k.json", b"\xff")):
        (tmp_path / "features" / name).write_bytes(content)
        assert memory.outcome("k", compute)[1] is False
    assert len(calls) == 4
    assert Memory().outcome("k", compute)[1] is False and memory.outcome("", compute)[1] is False
    assert len(calls) == 6
