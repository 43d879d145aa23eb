"""RotNet's backbone: widths and maps of every block, and how many weights it has."""

from __future__ import annotations

import pytest
import torch

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError
from ssgear.models.encoders.blocks import PooledBlocks, block_names, quadrants
from ssgear.models.encoders.encoder import Normalized, build_encoder
from ssgear.models.encoders.networks import check_model

MAPS = {"block1": (96, 16), "block2": (192, 8), "block3": (192, 8), "block4": (192, 8)}


def test_nin4_block_by_block() -> None:
    encoder = build_encoder(ModelConfig(name="nin4"), 32)
    assert block_names(encoder.network) == tuple(MAPS)
    assert encoder.num_features == 192
    images = torch.randn(2, 3, 32, 32)
    maps = images
    for name, (channels, side) in MAPS.items():
        maps = encoder.network.get_submodule(name)(maps)
        assert maps.shape == (2, channels, side, side)
    torch.testing.assert_close(encoder(images), maps.mean((2, 3)))
    # 5 x 5 from 3 to 192 channels, then 1 x 1 to 160 and 96; 5 x 5, 3 x 3 and 1 x 1 of 192
    convolutions = 25 * 3 * 192 + 192 * 160 + 160 * 96 + 25 * 96 * 192 + 2 * 9 * 192 * 192
    convolutions += (2 + 2 + 2) * 192 * 192
    norms = 2 * (192 + 160 + 96 + 9 * 192)
    assert sum(weight.numel() for weight in encoder.parameters()) == convolutions + norms


@pytest.mark.parametrize("name", ["nin3", "nin5"])
def test_other_depths(name: str) -> None:
    network = build_encoder(ModelConfig(name=name, norm="group"), 32).network
    assert len(block_names(network)) == int(name[-1])


def test_a_depth_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'nin6' \(did you mean nin\d\?\)"):
        check_model("nin6")


def test_quadrants_are_maxima_of_four_parts() -> None:
    maps = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)
    assert quadrants(maps).tolist() == [[5, 7, 13, 15, 21, 23, 29, 31]]
    assert quadrants(torch.ones(1, 3, 1, 1)).tolist() == [[1, 1, 1]]
    assert quadrants(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])).tolist() == [[2, 4]]


def test_pooled_blocks_side_by_side() -> None:
    encoder = Normalized(build_encoder(ModelConfig(name="nin3"), 32), (0.5,) * 3, (0.5,) * 3)
    encoder.eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    pooled = PooledBlocks(encoder)
    features = pooled(images)
    assert pooled.widths == (4 * 96, 4 * 192, 4 * 192)
    block1 = encoder.encoder.network.get_submodule("block1")(images / 127.5 - 1)
    by_hand = torch.stack(
        [block1[:, :, y : y + 8, x : x + 8].amax((2, 3)) for y in (0, 8) for x in (0, 8)], 2
    )
    torch.testing.assert_close(features[:, : 4 * 96], by_hand.flatten(1))
    assert torch.equal(PooledBlocks(encoder, ["block1"])(images), features[:, : 4 * 96])
