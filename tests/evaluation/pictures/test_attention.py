"""Attention maps against softmax(q k / sqrt(d)) written out, and against timm's slow path."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.errors import ArgumentError, ConfigError
from ssgear.evaluation.pictures.attention import attention_maps
from ssgear.models.encoders import Encoder, Normalized, build_encoder

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def images(count: int = 3, side: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def encoder_of(name: str, size: int = 48, **options: Any) -> Normalized:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, img_size=size, **options)
    with torch.no_grad():  # scores far from 0, so that maps are not flat
        for value in network.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    return Normalized(Encoder(network, ModelConfig(name=name), size), MEAN, STD)


def slow_attention(encoder: Normalized, batch: Tensor) -> Tensor:
    """Return the last block's attention [N, heads, T, T] as timm's slow path drops out of it."""
    network: Any = encoder.encoder.network
    maps: list[Tensor] = []
    attention = network.blocks[-1].attn
    attention.fused_attn = False
    handle = attention.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    encoder.eval()(batch)
    handle.remove()
    attention.fused_attn = True
    (result,) = maps
    return result


def test_maps_are_those_of_the_formula() -> None:
    encoder = encoder_of("test_vit")
    network: Any = encoder.encoder.network.eval()
    maps = attention_maps(encoder, images())
    assert maps.shape == (3, network.blocks[-1].attn.num_heads, 3, 3)  # patches of 16 pixels
    tokens = network.norm_pre(network._pos_embed(network.patch_embed(encoder.normalize(images()))))
    for block in network.blocks[:-1]:
        tokens = block(tokens)
    last = network.blocks[-1]
    weights, heads = last.attn.qkv, last.attn.num_heads
    projected = last.norm1(tokens).double() @ weights.weight.double().T + weights.bias.double()
    query, key, _ = projected.chunk(3, dim=2)
    width = query.shape[2] // heads
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = query[:, 0, None, columns] @ key[:, :, columns].transpose(1, 2) / width**0.5
        expected = scores.softmax(2)[:, 0, 1:].view(3, 3, 3)
        torch.testing.assert_close(maps[:, head].double(), expected, rtol=1e-4, atol=1e-6)
    assert float(maps.flatten(2).std(2).min()) > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("test_vit", {}, 1),
        ("test_vit", {"qk_norm": True}, 1),
        ("test_vit", {"reg_tokens": 4}, 5),
        ("vit_tiny_patch16_dinov3_qkvb", {"depth": 2}, 5),  # rotary embeddings, registers
    ],
)
def test_maps_are_those_of_the_slow_path(name: str, options: dict[str, Any], prefix: int) -> None:
    encoder = encoder_of(name, **options)
    expected = slow_attention(encoder, images())[:, :, 0, prefix:]
    maps = attention_maps(encoder, images())
    torch.testing.assert_close(maps.flatten(2), expected, rtol=1e-4, atol=1e-6)
    assert float(maps.sum((2, 3)).max()) <= 1  # the rest is for class token and registers


def test_without_a_class_token_the_mean_query_looks() -> None:
    encoder = encoder_of("test_vit", class_token=False, global_pool="avg")
    network: Any = encoder.encoder.network.eval()
    inputs: list[Tensor] = []
    attention = network.blocks[-1].attn
    handle = attention.qkv.register_forward_hook(lambda _m, _i, output: inputs.append(output))
    maps = attention_maps(encoder, images())
    handle.remove()
    query, key, _ = inputs[0].view(3, 9, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = (query * attention.scale).mean(2, keepdim=True) @ key.transpose(2, 3)
    torch.testing.assert_close(maps.flatten(2), scores.softmax(3)[:, :, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(3, attention.num_heads))


def test_nothing_of_the_encoder_changes_and_batches_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = encoder_of("test_vit")
    network: Any = encoder.encoder.network
    attention = network.blocks[-1].attn
    attention.fused_attn = False
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    maps = attention_maps(encoder, images(5))
    assert encoder.training and attention.fused_attn is False
    assert "forward" not in vars(attention)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    monkeypatch.setattr("ssgear.evaluation.pictures.patches.BATCH", 2)
    torch.testing.assert_close(attention_maps(encoder, images(5)), maps)


@pytest.mark.parametrize("name", ["resnet_tiny", "nin3", "swin_tiny_patch4_window7_224"])
def test_networks_without_attention_between_patches(name: str) -> None:
    size = 224 if name.startswith("swin") else 32
    encoder = Normalized(build_encoder(ModelConfig(name=name), size), MEAN, STD)
    with pytest.raises(ConfigError, match=f"{name}: not a vision transformer") as caught:
        attention_maps(encoder, images(1, size))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [images(0), images(2, 32), images()[0], images()[:, :1]])
def test_images_that_do_not_fit(batch: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"images: shape .* expected \[N, 3, 48, 48\]"):
        attention_maps(encoder_of("test_vit"), batch)
