"""Encoders against timm, the stems, group normalisation, files to the bit, and every bad file."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import ssgear
from ssgear.config.schema import ModelConfig
from ssgear.errors import ArgumentError, CheckpointError, ConfigError
from ssgear.models.encoders import networks
from ssgear.models.encoders.encoder import (
    Encoder,
    Normalized,
    build_encoder,
    load_encoder,
    save_encoder,
)

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
TINY = ModelConfig(name="resnet_tiny")


def images(count: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def train_a_little(encoder: nn.Module) -> None:
    """Move weights and batch statistics away from their initial values."""
    encoder.train()
    for step in range(2):
        encoder(torch.randn(5, 3, 32, 32) * 3 + step).square().mean().backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


@pytest.fixture
def trained() -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(TINY, 32, seed=3)
    train_a_little(encoder)
    return encoder


@pytest.fixture
def run(trained: Encoder, tmp_path: Path) -> Path:
    save_encoder(trained, tmp_path / "run", mean=MEAN, std=STD, extra={"method": "simclr"})
    return tmp_path / "run"


def test_resnet18_is_that_of_timm() -> None:
    encoder = build_encoder(ModelConfig(name="resnet18", stem="imagenet"), 64)
    oracle: Any = timm.create_model("resnet18", num_classes=10)
    oracle.load_state_dict(encoder.network.state_dict(), strict=False)
    x = torch.randn(2, 3, 71, 64)
    oracle.eval()
    expected = oracle.forward_features(x).mean(dim=(2, 3))
    torch.testing.assert_close(encoder.eval()(x), expected)
    assert encoder.num_features == 512 and encoder.size == 64 and encoder.name == "resnet18"
    assert sum(p.numel() for p in encoder.parameters()) == sum(
        p.numel() for name, p in oracle.named_parameters() if not name.startswith("fc.")
    )


def test_vision_transformer_takes_the_size() -> None:
    encoder = build_encoder(ModelConfig(name="vit_tiny_patch16_224"), 48)
    oracle = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=48)
    oracle.load_state_dict(encoder.network.state_dict())
    x = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(encoder.eval()(x), oracle.eval()(x))
    assert encoder.num_features == 192


@pytest.mark.parametrize(
    ("name", "stem", "size", "kernel", "stride", "side"),
    [
        ("resnet18", "auto", 32, 3, 1, 32),
        ("resnet18", "auto", 64, 3, 1, 64),
        ("resnet18", "auto", 65, 7, 2, 17),
        ("resnet18", "cifar", 96, 3, 1, 96),
        ("resnet18d", "auto", 32, 3, 1, 32),
        ("resnet_tiny", "auto", 32, 3, 2, 16),
        ("resnet_tiny", "auto", 96, 3, 2, 48),
        ("resnet_tiny", "cifar", 32, 3, 1, 32),
        ("resnet_tiny", "imagenet", 32, 7, 2, 8),
    ],
)
def test_stems(name: str, stem: str, size: int, kernel: int, stride: int, side: int) -> None:
    network = networks.build_network(name, size, stem=stem, norm="batch")
    assert isinstance(network, timm.models.resnet.ResNet)
    conv = network.conv1
    assert isinstance(conv, nn.Conv2d)
    assert conv.kernel_size == (kernel, kernel) and conv.stride == (stride, stride)
    sides: list[int] = []
    network.get_submodule("layer1").register_forward_pre_hook(
        lambda _, x: sides.extend(x[0].shape[-2:])
    )
    assert network.eval()(torch.zeros(1, 3, size, size)).ndim == 2
    assert sides == [side, side]


def test_tiny_is_narrow() -> None:
    encoder = build_encoder(TINY, 32)
    assert encoder.num_features == 256
    assert sum(p.numel() for p in encoder.parameters()) < 1_000_000


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "resnet50", "efficientnet_b0"])
def test_group_norm_replaces_every_batch_norm(name: str) -> None:
    grouped = build_encoder(ModelConfig(name=name, norm="group"), 32, seed=1)
    batched = build_encoder(ModelConfig(name=name), 32, seed=1)
    assert not any(isinstance(module, _BatchNorm) for module in grouped.modules())
    assert any(isinstance(module, _BatchNorm) for module in batched.modules())
    for one, other in zip(grouped.parameters(), batched.parameters(), strict=True):
        assert torch.equal(one, other)  # the same initial weights, zeros of the last norm included
    x = torch.randn(4, 3, 32, 32)
    grouped.train()
    torch.manual_seed(0)
    if name != "efficientnet_b0":  # which drops whole paths at random
        torch.testing.assert_close(grouped(x)[1:2], grouped(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups"), [(16, 2), (64, 8), (256, 32), (72, 9), (7, 1), (2048, 32)]
)
def test_groups(channels: int, groups: int) -> None:
    assert networks.groups_for(channels) == groups


def test_activation_of_a_fused_norm_survives() -> None:
    efficient = networks.build_network("efficientnet_b0", 32, stem="auto", norm="group")
    activations = [m for m in efficient.modules() if isinstance(m, nn.SiLU)]
    plain = networks.build_network("efficientnet_b0", 32, stem="auto", norm="batch")
    assert len(activations) == len([m for m in plain.modules() if isinstance(m, nn.SiLU)]) > 0


def test_weights_depend_on_the_seed_only_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = build_encoder(TINY, 32, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two, other = build_encoder(TINY, 32, seed=7), build_encoder(TINY, 32, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert one.training


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (
            ModelConfig(name="resnet81"),
            32,
            r"--model.name: unknown model 'resnet81' \(did you mean",
        ),
        (ModelConfig(name="resnet_tyni"), 32, r"did you mean resnet_tiny\?"),
        (ModelConfig(name="hf_hub:x/resnet18"), 32, "--model.name: unknown"),
        (ModelConfig(name="vit_tiny_patch16_224"), 40, "--data.size: .* 40 x 40 .*patches are 16"),
        (ModelConfig(name="vit_tiny_patch16_224"), 8, "--data.size: .* 8 x 8"),
        (ModelConfig(name="inception_v3"), 32, "--data.size: inception_v3 cannot take"),
        (ModelConfig(name="vit_tiny_patch16_224", stem="cifar"), 32, "--model.stem: cifar is for"),
    ],
)
def test_models_that_cannot_be_built(config: ModelConfig, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_encoder(config, size)
    assert "\n" not in str(caught.value)


def test_saved_and_loaded_to_the_bit(trained: Encoder, run: Path) -> None:
    loaded = ssgear.load_encoder(run)
    assert not loaded.training and not loaded.encoder.training
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], value), name
    trained.eval()
    scaled = (images().float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    assert torch.equal(loaded(images()), trained(scaled))
    assert (loaded.num_features, loaded.size, loaded.mean, loaded.std) == (256, 32, MEAN, STD)
    assert loaded.config == TINY and loaded.extra == {"method": "simclr"}
    for path in (run / "encoder.safetensors", str(run), run / "encoder.json"):
        assert torch.equal(load_encoder(path)(images()), loaded(images()))
    assert sorted(p.name for p in run.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_full_disk_leaves_the_old_pair(
    trained: Encoder, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_encoder(run)(images())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(build_encoder(TINY, 32, seed=5), run, mean=MEAN, std=STD)
    assert torch.equal(load_encoder(run)(images()), before)
    assert sorted(p.name for p in run.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_saved_in_channels_last_order(trained: Encoder, tmp_path: Path) -> None:
    save_encoder(trained, tmp_path / "a", mean=MEAN, std=STD)
    save_encoder(trained.to(memory_format=torch.channels_last), tmp_path / "b", mean=MEAN, std=STD)
    a, b = ((tmp_path / x / "encoder.safetensors").read_bytes() for x in "ab")
    assert a == b


def test_uint8_and_float_images_are_the_same(run: Path) -> None:
    encoder = load_encoder(run)
    assert torch.equal(encoder(images()), encoder(images().float() / 255))
    torch.testing.assert_close(encoder(images()), encoder(images().double() / 255))
    assert encoder(images(side=45)).shape == (3, 256)


@pytest.mark.parametrize(
    "bad",
    [images()[0], images()[:, :1], images().long(), torch.zeros(2, 3, 32, 32, dtype=torch.bool)],
)
def test_what_is_no_image(bad: Tensor, run: Path) -> None:
    with pytest.raises(ArgumentError, match=r"images: .* expected"):
        load_encoder(run)(bad)


def test_a_network_of_one_size_says_so() -> None:
    encoder = Normalized(build_encoder(ModelConfig(name="vit_tiny_patch16_224"), 32), MEAN, STD)
    with pytest.raises(ArgumentError, match=r"48 x 48 pixels, .* built for 32 x 32"):
        encoder(images(side=48))


def test_normalized_shares_the_weights_and_trains() -> None:
    encoder = build_encoder(TINY, 32)
    wrapped = Normalized(encoder, MEAN, STD)
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in encoder.parameters()}
    assert set(wrapped.state_dict()) == {f"encoder.{name}" for name in encoder.state_dict()}
    wrapped(images()).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    with pytest.raises(ArgumentError, match="std above 0"):
        Normalized(encoder, MEAN, (0.2, 0.0, 0.2))


def test_training_starts_from_saved_weights(trained: Encoder, run: Path) -> None:
    for path in (run, run / "encoder.safetensors"):
        encoder = build_encoder(dataclasses.replace(TINY, weights=path), 48, seed=9)
        for name, value in trained.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], value), name
    with pytest.raises(
        CheckpointError, match=r"--model.weights: .* does not fit resnet18 .*and \d+ more"
    ):
        build_encoder(ModelConfig(name="resnet18", weights=run), 32)
    with pytest.raises(
        CheckpointError, match=r"conv1.weight is \(16, 3, 3, 3\), not \(16, 3, 7, 7\)$"
    ):
        build_encoder(ModelConfig(name="resnet_tiny", stem="imagenet", weights=run), 32)
    with pytest.raises(
        CheckpointError, match=r"there is no such file; expected encoder.safetensors"
    ):
        build_encoder(dataclasses.replace(TINY, weights=run / "nothing"), 32)


def edit(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "encoder.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def cut(run: Path) -> None:
    path = run / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def other_weights(run: Path) -> None:
    save_encoder(build_encoder(TINY, 32, seed=99), run / "other", mean=MEAN, std=STD)
    shutil.copy(run / "other" / "encoder.safetensors", run / "encoder.safetensors")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no run": (shutil.rmtree, "there is no such run or file; name a run's directory"),
    "no weights": (lambda run: (run / "encoder.safetensors").unlink(), "no such file; expected"),
    "no description": (lambda run: (run / "encoder.json").unlink(), "encoder.json: there is no"),
    "truncated": (cut, "truncated or not a safetensors"),
    "empty": (lambda run: (run / "encoder.safetensors").write_bytes(b""), "truncated or not"),
    "pickle": (lambda run: torch.save({}, run / "encoder.safetensors"), "truncated or not"),
    "no json": (lambda run: (run / "encoder.json").write_text("{"), "cannot be read as JSON"),
    "a list": (lambda run: (run / "encoder.json").write_text("[]"), "format 'list'"),
    "later format": (edit(format=2), "format 2 is not one"),
    "no model": (edit(model=None), "a setting is missing or wrong"),
    "odd model": (edit(model={"nmae": "x"}), "a setting is missing or wrong"),
    "unknown model": (edit(model={"name": "resnet_tyni"}), "did you mean resnet_tiny"),
    "other model": (edit(model={"name": "resnet18"}), "does not fit resnet18"),
    "other norm": (edit(model={"name": "resnet_tiny", "norm": "group"}), "is not part of it"),
    "odd norm": (edit(model={"name": "resnet_tiny", "norm": "gruop"}), "model.norm is 'gruop'"),
    "odd name": (edit(model={"name": 18}), "model.name is 18"),
    "negative size": (edit(size=-3), "cannot take images of -3"),
    "two means": (edit(mean=[0.5, 0.5]), "give three numbers"),
    "other weights": (other_weights, "describes other weights"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, run: Path) -> None:
    damage, message = BAD[case]
    damage(run)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(run)
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)
