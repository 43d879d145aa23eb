"""AutoAugment: torchvision's own, but for where the draws come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torchvision import transforms as v1

from ssgear.data.augment.policy import apply_policy
from ssgear.data.augment.views import AugmentSpec, augment
from ssgear.errors import ArgumentError
from ssgear.kernels import philox


def pictures(count: int, height: int = 21, width: int = 17) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth * 255).clamp(0, 255).to(torch.uint8)


def changed(crops: torch.Tensor, flip: torch.Tensor, policy="cifar10", **change) -> torch.Tensor:
    settings = {"seed": 3, "epoch": 1, "indices": torch.arange(len(crops)), "view": 0}
    return apply_policy(crops, flip, policy, **settings | change)


class Replayed:
    """Stands for torch's random functions within torchvision: hands out a row of draws in order."""

    def __init__(self, row: torch.Tensor) -> None:
        self.left: Iterator[float] = iter(row.tolist())

    def rand(self, shape: tuple[int]) -> torch.Tensor:
        return torch.tensor([next(self.left) for _ in range(shape[0])])

    def randint(self, high: int, shape: tuple[int]) -> torch.Tensor:
        return torch.tensor([int(next(self.left) * high) for _ in range(shape[0])])


@pytest.mark.parametrize("policy", ["cifar10", "imagenet"])
def test_each_image_is_torchvisions(policy, monkeypatch):
    crops = pictures(80)
    flip = torch.arange(80) % 3 == 0
    ours = changed(crops, flip, policy)
    draws = philox.uniform(philox.derive_key(3, 1, 0, "autoaugment"), torch.arange(80), 5)
    transform = v1.AutoAugment(v1.AutoAugmentPolicy(policy))
    rand, randint = torch.rand, torch.randint
    for row, crop in enumerate(crops):
        replayed = Replayed(draws[row])
        monkeypatch.setattr(torch, "rand", replayed.rand)
        monkeypatch.setattr(torch, "randint", replayed.randint)
        mirrored = crop.flip(-1) if flip[row] else crop
        theirs = transform(mirrored)
        monkeypatch.setattr(torch, "rand", rand)
        monkeypatch.setattr(torch, "randint", randint)
        assert next(replayed.left, None) is None
        assert torch.equal(ours[row].flip(-1) if flip[row] else ours[row], theirs), row
    assert (ours != crops).flatten(1).any(1).float().mean() > 0.5
    pairs = (draws[:, 0] * 25).long()
    assert len(pairs.unique()) > 15, "most pairs of operations are among them"


def test_a_row_depends_on_seed_epoch_view_and_index_alone():
    crops, flip = pictures(1).expand(40, -1, -1, -1), torch.zeros(40, dtype=torch.bool)
    base = changed(crops, flip)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(changed(crops, flip), base)
    assert torch.equal(torch.get_rng_state(), state), "the global generator stays as it was"
    some = torch.tensor([31, 4])
    assert torch.equal(changed(crops[some], flip[some], indices=some), base[some])
    for change in ({"seed": 4}, {"epoch": 2}, {"view": 1}):
        assert not torch.equal(changed(crops, flip, **change), base), change


def test_augment_crops_mirrors_and_changes_before_it_normalises():
    images = pictures(30)
    spec = AugmentSpec(policy="imagenet", flip=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
    indices = torch.arange(30)
    keyed = {"seed": 3, "epoch": 1, "indices": indices, "view": 0}
    views = augment(images, spec, size=17, **keyed)
    plain = augment(
        images, AugmentSpec(flip=0.5, mean=(0.0,) * 3, std=(1.0,) * 3), size=17, **keyed
    )
    mirrored = (plain * 255).round().to(torch.uint8)
    nobody = torch.zeros(30, dtype=torch.bool)
    expected = apply_policy(mirrored, nobody, "imagenet", **keyed)
    torch.testing.assert_close(views, expected / 255, rtol=0, atol=1e-5)


def test_it_takes_bytes_only():
    with pytest.raises(ArgumentError, match="AutoAugment takes uint8"):
        augment(
            pictures(2) / 255, AugmentSpec(policy="cifar10"), size=9, seed=0, epoch=0,
            indices=torch.arange(2), view=0,
        )  # fmt: skip
