from __future__ import annotations

from typing import Any

import pytest
import torch

from ssgear.data.order.sampler import Sampler
from ssgear.errors import ConfigError, DataError


def sampler(**changes: Any) -> Sampler:
    return Sampler(**{"num_images": 103, "batch_size": 12, "seed": 5, **changes})


def test_an_epoch_shows_each_image_at_most_once_and_whole_batches_only() -> None:
    one = sampler()
    assert one.steps_per_epoch == 8
    order = one.order(3)
    seen = torch.cat([one.items(order, step).index for step in range(8)])
    assert len(seen) == 96 and len(seen.unique()) == 96
    assert int(seen.min()) >= 0 and int(seen.max()) < 103


def test_orders_differ_by_epoch_seed_and_stream_and_repeat_otherwise() -> None:
    orders = [
        sampler().order(0), sampler().order(1), sampler(seed=6).order(0), sampler().order(0, "x.1")
    ]  # fmt: skip
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert not torch.equal(first.draw, second.draw)
    assert torch.equal(sampler().order(0).draw, orders[0].draw)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("synthetic", [{}, {"num_synthetic": 7, "synthetic_ratio": 0.6}])
def test_ranks_together_see_what_one_process_sees(
    world_size: int, synthetic: dict[str, Any]
) -> None:
    whole = sampler(**synthetic)
    order = whole.order(2)
    parts = [
        sampler(rank=r, world_size=world_size, **synthetic).items(order, 4)
        for r in range(world_size)
    ]
    expected = whole.items(order, 4)
    assert torch.equal(torch.cat([part.index for part in parts]), expected.index)
    assert torch.equal(torch.cat([part.draw for part in parts]), expected.draw)
    assert torch.equal(torch.cat([part.position for part in parts]), torch.arange(12))
    if expected.generated is not None:
        masks = [part.generated for part in parts if part.generated is not None]
        assert torch.equal(torch.cat(masks, dim=1), expected.generated)


def test_synthetic_images_make_no_epoch_longer_and_none_without_a_share() -> None:
    plain, idle = sampler(), sampler(num_synthetic=50)
    assert torch.equal(idle.order(1).draw, plain.order(1).draw)
    assert idle.items(idle.order(1), 2).generated is None
    half = sampler(num_synthetic=50, synthetic_ratio=0.5)
    assert half.steps_per_epoch == plain.steps_per_epoch
    order = half.order(0)
    for step in range(8):
        items = half.items(order, step)
        assert items.generated is not None and items.generated.shape == (1, 12)
        assert int(items.generated.sum()) == 6
        assert torch.equal(items.generated[0], items.index >= 103)
        assert torch.equal(items.draw % 153, items.index)


def test_a_set_smaller_than_a_batch_and_an_uneven_share_are_refused() -> None:
    with pytest.raises(DataError, match="11 images to train on are fewer than one batch of 12"):
        sampler(num_images=11)
    with pytest.raises(ConfigError, match="multiple of 5"):
        sampler(world_size=5)
