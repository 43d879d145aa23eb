"""Principal components of patches against scikit-learn, their signs and colours."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.errors import ArgumentError, ConfigError
from ssgear.evaluation.pictures.patch_pca import patch_pca, principal_components, to_colours
from ssgear.models.encoders import Encoder, Normalized, build_encoder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def images(count: int = 3, side: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def encoder_of(**options: Any) -> Normalized:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=48, **options)
    return Normalized(Encoder(network, ModelConfig(name="test_vit"), 48), MEAN, STD)


@pytest.mark.parametrize(("rows", "width"), [(47, 11), (5, 19), (401, 3)])
def test_components_are_those_of_scikit_learn(rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    scales = torch.linspace(3, 1, width)
    data = 7 + torch.randn(rows, width, generator=generator) * scales
    components = principal_components(data)
    oracle = PCA(3, svd_solver="full").fit(data.double().numpy())
    expected = torch.from_numpy(oracle.transform(data.double().numpy()))
    for column in range(3):
        weights = torch.from_numpy(oracle.components_[column])
        sign = weights[weights.abs().argmax()].sign()
        torch.testing.assert_close(components[:, column], sign * expected[:, column])


def test_missing_components_are_zero() -> None:
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([3.0, -4.0, 0.0, 0.0, 0.0])
    components = principal_components(line + 0.1)
    torch.testing.assert_close(components[:, 0], -torch.linspace(-5, 5, 9).double())
    assert components[:, 1:].abs().max() == 0
    assert principal_components(torch.full((4, 2), 0.3)).abs().max() == 0
    assert principal_components(torch.rand(6, 2))[:, 2].abs().max() == 0


def test_colours_reach_from_0_to_255() -> None:
    columns = torch.tensor([[-1.0, 5.0, 2.0], [3.0, 5.0, 1.0], [0.0, 5.0, 1.5]], dtype=torch.double)
    expected = torch.tensor([[0, 0, 255], [255, 0, 0], [64, 0, 128]], dtype=torch.uint8)
    assert torch.equal(to_colours(columns), expected)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"class_token": False}])
def test_patches_of_all_images_share_the_components(options: dict[str, Any]) -> None:
    if options.get("class_token") is False:
        options = {**options, "global_pool": "avg"}
    encoder = encoder_of(**options)
    network: Any = encoder.encoder.network.eval()
    tokens = network.forward_features(encoder.normalize(images())).detach()
    patches = tokens[:, tokens.shape[1] - 9 :].flatten(0, 1).double()  # 3 x 3 of 16 pixels
    left, values, right = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    largest = right[:3].abs().argmax(1)
    signs = right[torch.arange(3), largest].sign()
    projected = left[:, :3] * values[:3] * signs
    low, high = projected.min(0).values, projected.max(0).values
    expected = ((projected - low) / (high - low) * 255).view(3, 3, 3, 3)
    colours = patch_pca(encoder, images())
    assert colours.dtype == torch.uint8 and colours.shape == (3, 3, 3, 3)
    assert float((colours.double() - expected).abs().max()) < 0.51
    assert torch.equal(patch_pca(encoder, images()), colours)
    assert colours.flatten(0, 2).amin(0).tolist() == [0, 0, 0]
    assert colours.flatten(0, 2).amax(0).tolist() == [255, 255, 255]


def test_modes_return() -> None:
    encoder = encoder_of().train()
    patch_pca(encoder, images(2))
    assert encoder.training


def test_networks_and_images_that_do_not_fit() -> None:
    encoder = Normalized(build_encoder(ModelConfig(name="resnet_tiny"), 32), MEAN, STD)
    with pytest.raises(ConfigError, match="resnet_tiny: not a vision transformer with patches"):
        patch_pca(encoder, images(1, 32))
    with pytest.raises(ArgumentError, match=r"images: shape \(1, 3, 32, 32\), expected \[N, 3, 48"):
        patch_pca(encoder_of(), images(1, 32))
