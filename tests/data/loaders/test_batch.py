from __future__ import annotations

import dataclasses

import torch

from ssgear.data.loaders.batch import Batch


def batch(positions: range, **changes: object) -> Batch:
    position = torch.tensor(list(positions))
    views = [torch.arange(len(position)).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)] * 2
    made = Batch(views=views, index=position + 100, position=position, seed=3, phase="p")
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_draws_belong_to_rows_whatever_the_cut() -> None:
    whole = batch(range(8)).draw("noise", (3, 2))
    assert whole.shape == (8, 3, 2) and whole.dtype == torch.float32
    ranks = [batch(range(0, 4)).draw("noise", (3, 2)), batch(range(4, 8)).draw("noise", (3, 2))]
    assert torch.equal(torch.cat(ranks), whole)
    assert torch.equal(batch(range(8)).rows(slice(2, 5)).draw("noise", (3, 2)), whole[2:5])


def test_draws_differ_by_everything_in_their_key() -> None:
    first = batch(range(8)).draw("noise")
    others = [
        batch(range(8)).draw("eps"),
        batch(range(8), seed=4).draw("noise"),
        batch(range(8), step=1).draw("noise"),
        batch(range(8), phase="q").draw("noise"),
        batch(range(8), repeat=1).draw("noise"),
        batch(range(8), position=torch.arange(8, 16)).draw("noise"),
    ]
    assert first.shape == (8,)
    assert not any(torch.equal(first, other) for other in others)


def test_uniform_and_normal_moments() -> None:
    uniform = batch(range(512)).draw("u", (64,))
    normal = batch(range(512)).draw("n", (64,), normal=True)
    assert float(uniform.min()) >= 0 and float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    assert abs(float(normal.mean())) < 0.02 and abs(float(normal.std()) - 1) < 0.02


def test_rows_cuts_every_field() -> None:
    labels = torch.arange(8)
    generated = torch.zeros(2, 8, dtype=torch.bool)
    generated[1, 3] = True
    cut = batch(range(8), labels=labels, generated=generated).rows(slice(3, 5))
    assert len(cut) == 2
    assert cut.labels is not None and cut.labels.tolist() == [3, 4]
    assert cut.generated is not None and cut.generated.tolist() == [[False, False], [True, False]]
    assert cut.index.tolist() == [103, 104] and float(cut.views[1][0].mean()) == 3
