"""DrLIM's network layer by layer, and the size that it takes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError
from ssgear.models.encoders.encoder import build_encoder


def test_layer_by_layer() -> None:
    encoder = build_encoder(ModelConfig(name="drlim"), 32).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    weights = [*encoder.parameters()]
    shapes = [tuple(weight.shape) for weight in weights[::2]]
    assert shapes == [(15, 3, 6, 6), (15, 15, 5, 5), (30, 15, 5, 5), (2, 30)]
    maps = F.max_pool2d(F.conv2d(images, weights[0], weights[1], padding=2).relu(), 2)
    assert maps.shape[2:] == (15, 15)
    maps = F.max_pool2d(F.conv2d(maps, weights[2], weights[3]).relu(), 2)
    maps = F.conv2d(maps, weights[4], weights[5]).relu()
    assert maps.shape == (2, 30, 1, 1)
    expected = F.linear(maps.flatten(1), weights[6], weights[7])
    torch.testing.assert_close(encoder(images), expected)


def test_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--data\.size: drlim takes images of 32 x 32 pixels"):
        build_encoder(ModelConfig(name="drlim"), 64)
