"""Exemplar-CNN's networks: the published names layer by layer, larger images, and wrong names."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError
from ssgear.models.encoders.blocks import block_names
from ssgear.models.encoders.encoder import build_encoder
from ssgear.models.encoders.exemplar import is_spec, parse_spec
from ssgear.models.encoders.networks import check_model

SMALL, LARGE = "64c5-128c5-256c5-512f", "92c5-256c5-512c5-1024f"


def test_published_specs() -> None:
    assert parse_spec(SMALL).convolutions == ((64, 5), (128, 5), (256, 5))
    assert parse_spec(LARGE).connected == 1024


@pytest.mark.parametrize(
    ("name", "features", "weights"),
    [
        (SMALL, 512, 64 * 76 + 128 * 1601 + 256 * 3201 + 512 * (256 * 64 + 1)),
        (LARGE, 1024, 92 * 76 + 256 * 2301 + 512 * 6401 + 1024 * (512 * 64 + 1)),
    ],
)
def test_published_networks_have_their_weights(name: str, features: int, weights: int) -> None:
    encoder = build_encoder(ModelConfig(name=name), 32)
    assert encoder.num_features == features
    assert sum(weight.numel() for weight in encoder.parameters()) == weights
    assert block_names(encoder.network) == ("layer1", "layer2", "layer3", "layer4")


def test_forward_layer_by_layer() -> None:
    encoder = build_encoder(ModelConfig(name="4c5-6c3-8c3-10f"), 16).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    state = [parameter for _, parameter in encoder.named_parameters()]
    maps = F.max_pool2d(F.conv2d(images, state[0], state[1], padding=2).relu(), 2)
    maps = F.max_pool2d(F.conv2d(maps, state[2], state[3], padding=1).relu(), 2)
    maps = F.conv2d(maps, state[4], state[5], padding=1).relu()
    expected = F.linear(maps.flatten(1), state[6].flatten(1), state[7]).relu()
    torch.testing.assert_close(encoder(images), expected)
    # a larger image gives the mean over its places
    larger = torch.zeros(2, 3, 20, 20, dtype=torch.float64)
    larger[:, :, 2:18, 2:18] = images
    assert encoder(larger).shape == (2, 10)


@pytest.mark.parametrize("name", ["64c5", "512f", "64c5-f", "64c4-512f", "0c5-512f", "8c5-9f-9f"])
def test_names_that_are_no_network(name: str) -> None:
    if not is_spec(name):
        with pytest.raises(ConfigError, match="unknown model"):
            check_model(name)
        return
    with pytest.raises(ConfigError, match=rf"--model\.name: {name} is no network; .* {SMALL}"):
        check_model(name)


def test_images_too_small_for_the_pooling() -> None:
    with pytest.raises(ConfigError, match=r"--data\.size: .* cannot take images of 3 x 3"):
        build_encoder(ModelConfig(name=SMALL), 3)
