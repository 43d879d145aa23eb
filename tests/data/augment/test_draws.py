"""One call draws what seventy tensor operations draw, to the bit; and what cannot be drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssgear.data.augment import draws
from ssgear.data.augment.draws import drawn_reference, sample
from ssgear.data.augment.spec import SETS, AugmentSpec
from ssgear.errors import ArgumentError
from ssgear.kernels import native, philox
from tests.data.augment.columns import Columns

COUNT = 4000
STRANGE = {
    "nothing is certain": AugmentSpec(jitter=1.0, hue=0.5, brightness=3.0, blur=1.0, solarise=1.0),
    "no try fits": AugmentSpec(crop_scale=(1.0, 1.0), crop_ratio=(0.2, 0.21)),
    "one in many fits": AugmentSpec(crop_scale=(0.9, 1.0), crop_ratio=(0.1, 10.0)),
    "a point": AugmentSpec(crop_scale=(0.3, 0.3), crop_ratio=(1.0, 1.0), blur_sigma=(2.0, 2.0)),
}
SPECS = {**{name: views[-1] for name, views in SETS.items()}, **STRANGE}

needs_native = pytest.mark.skipif(not native.available(), reason=native.reason())


def arguments(seed: int = 3) -> dict[str, Any]:
    """Return indices of every size of number, and images of 1 to 700 pixels a side."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(-(2**63), 2**63, COUNT, dtype=np.int64)
    indices[: COUNT // 2] = np.arange(COUNT // 2)
    sides = np.exp(rng.uniform(0, 6.55, (2, COUNT))).astype(np.int64)
    names = ("indices", "heights", "widths")
    return dict(zip(names, map(torch.from_numpy, (indices, *sides)), strict=True))


@needs_native
@pytest.mark.parametrize("name", SPECS)
def test_one_call_draws_the_same_bits(name: str) -> None:
    given, spec = arguments(), SPECS[name]
    made = sample(spec, seed=5, epoch=7, view=1, **given).packed
    key = philox.derive_key(5, 7, 1, "augment")
    right = drawn_reference(key, *given.values(), spec.numbers())
    assert made.dtype == right.dtype and made.shape == (COUNT, 16)
    wrong = (made != right).any(1).nonzero()[:, 0].tolist()
    assert not wrong, [(made[row], right[row]) for row in wrong[:2]]
    assert (made[:, 2:4] >= 1).all()


def test_the_draws_are_those_of_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view is a function of its numbers: these may never change."""
    given = {name: values[:3] for name, values in arguments().items()}
    expected = [
        [287.0, 100.0, 1.0, 1.1853607892990112, -0.08920208364725113, 0.0],
        [0.0, 10.0, 1.0, 0.9891974925994873, 0.04196389764547348, 0.0],
        [0.0, 2.0, 0.0, 0.7787123918533325, -0.0867932066321373, 0.0],
    ]
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(philox, "is_fast", lambda counters: False)
        packed = sample(SETS["byol"][1], seed=1, epoch=2, view=1, **given).packed
        assert packed[:, [0, 2, 4, 5, 8, 14]].tolist() == expected


class Count(TorchDispatchMode):
    """Counts the operators that are called."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@needs_native
def test_it_takes_one_operator() -> None:
    given = list(arguments().values())
    with Count() as fast:
        draws.draw(SETS["simclr"][0], (1, 2, 0), *given)
    with Count() as slow:
        drawn_reference(9, *given, SETS["simclr"][0].numbers())
    assert fast.calls == 1 and slow.calls > 50


def test_columns_have_the_types_of_what_they_say() -> None:
    params = sample(SPECS["simclr"], seed=5, epoch=7, view=1, **arguments())
    some = Columns(params.packed[3:8])
    assert some.flip.dtype == some.grey.dtype == some.solarise.dtype == torch.bool
    assert some.order.dtype == torch.int64
    assert some.order.sort(1).values.tolist() == [[0, 1, 2, 3]] * 5
    assert torch.equal(some.box, some.packed[:, :4]) and some.jitter.shape == (5, 4)


def test_whole_numbers_of_any_kind_are_one() -> None:
    given = arguments()
    ours = sample(SPECS["byol"], seed=5, epoch=7, view=1, **given).packed
    numpys = sample(SPECS["byol"], seed=np.int64(5), epoch=np.int32(7), view=1, **given)  # type: ignore[arg-type]
    assert torch.equal(ours, numpys.packed)
    strided = {name: torch.stack((v, v), 1)[:, 0] for name, v in given.items()}
    assert torch.equal(ours, sample(SPECS["byol"], seed=5, epoch=7, view=1, **strided).packed)
    narrow = given | {name: given[name].int() for name in ("heights", "widths")}
    assert torch.equal(ours, sample(SPECS["byol"], seed=5, epoch=7, view=1, **narrow).packed)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("indices", torch.arange(3).int(), r"indices \(3,\) torch.int32; give one int64"),
        ("indices", torch.arange(3.0), "indices .* torch.float32; give one int64"),
        ("indices", torch.arange(6).reshape(3, 2), r"indices \(3, 2\)"),
        ("heights", torch.tensor([4, 4]), r"heights \(2,\) torch.int64 for 3 indices"),
        ("widths", torch.ones(3), "widths .* torch.float32 .*whole number of pixels"),
        ("heights", torch.tensor([4, 0, 4]), "heights has 0; an image has at least 1 pixel"),
        ("widths", torch.tensor([4, 4, -3]), "widths has -3"),
        ("seed", 1.5, "'seed': 1.5.*give whole numbers"),
        ("epoch", "2", "'epoch': '2'"),
    ],
)
def test_what_it_cannot_draw(name: str, value: Any, told: str) -> None:
    sides = torch.full((3,), 8)
    given = {"seed": 0, "epoch": 0, "view": 0, "indices": torch.arange(3), "heights": sides}
    with pytest.raises(ArgumentError, match=told) as caught:
        sample(AugmentSpec(), **given | {"widths": sides} | {name: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_line_of_pixels_still_has_a_crop() -> None:
    """Where even the central crop of an allowed shape would be narrower than a pixel."""
    spec = dataclasses.replace(STRANGE["no try fits"], crop_ratio=(4.0, 5.0))
    line = torch.ones(50, dtype=torch.int64)
    for height, width in ((line, line), (300 * line, line), (line, 300 * line)):
        box = sample(
            spec, seed=0, epoch=0, view=0, indices=torch.arange(50), heights=height, widths=width
        ).box
        assert (box >= 0).all() and (box[:, 2:] >= 1).all()
        assert (box[:, 0] + box[:, 2] <= height).all() and (box[:, 1] + box[:, 3] <= width).all()
