"""Published weights through timm: folders against timm itself, sizes, digests, bad names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.errors import CheckpointError, ConfigError
from ssgear.models.encoders import build_encoder, load_timm, open_subject, save_encoder
from ssgear.models.encoders.encoder import load_encoder


def images(side: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def folder_of(name: str, path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    network = timm.create_model(name, **options)
    with torch.no_grad():  # away from zeros and ones
        for value in network.parameters():
            value.add_(torch.randn_like(value), alpha=0.02)
    save_for_hf(network, path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("test_vit", tmp_path_factory.mktemp("timm") / "vit")


def peer(path: Path, name: str, **options: Any) -> Any:
    """Load the weights without the code under test."""
    network = timm.create_model(name, **options)
    network.load_state_dict(safetensors.torch.load_file(path / "model.safetensors"))
    network.reset_classifier(0)
    return network.eval()


def test_a_folder_gives_the_features_of_timm(vit: Path) -> None:
    encoder = open_subject(f"timm:{vit}")
    assert not encoder.training and (encoder.size, encoder.num_features) == (160, 64)
    assert (encoder.mean, encoder.std) == ((0.5,) * 3, (0.5,) * 3)  # the published ones
    expected = peer(vit, "test_vit")((images(160) / 255 - 0.5) / 0.5)
    torch.testing.assert_close(encoder(images(160)), expected)


def test_another_size_resamples_the_position_embedding(vit: Path) -> None:
    encoder = load_timm(str(vit), size=64)
    expected = timm.create_model(f"local-dir:{vit}", pretrained=True, num_classes=0, img_size=64)
    torch.testing.assert_close(encoder(images(64)), expected.eval()(images(64) / 127.5 - 1))
    assert encoder.size == 64
    with pytest.raises(ConfigError, match=r"timm:/.*40 x 40 .*patches are 16"):
        load_timm(str(vit), size=40)


def test_convolutions_take_any_size(tmp_path: Path) -> None:
    path = folder_of("test_resnet", tmp_path / "resnet", num_classes=7)
    encoder = load_timm(str(path), size=45)
    network = peer(path, "test_resnet", num_classes=7)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.mean, encoder.std))
    torch.testing.assert_close(encoder(images(45)), network((images(45) / 255 - mean) / std))


def test_the_digest_is_that_of_the_weights(vit: Path, tmp_path: Path) -> None:
    digest = load_timm(str(vit)).digest
    copied = Path(shutil.copytree(vit, tmp_path / "copied"))
    assert len(digest) == 32 and load_timm(str(copied)).digest == digest
    state = safetensors.torch.load_file(copied / "model.safetensors")
    state["norm.bias"][5] += 1e-6
    safetensors.torch.save_file(state, copied / "model.safetensors")
    assert load_timm(str(copied)).digest != digest
    assert load_timm(str(vit), size=64).digest != digest


def test_a_loaded_encoder_is_saved_as_any_other(tmp_path: Path) -> None:
    encoder = load_timm(str(folder_of("test_resnet", tmp_path / "resnet")), size=48)
    save_encoder(encoder.encoder, tmp_path / "run", mean=encoder.mean, std=encoder.std)
    assert torch.equal(load_encoder(tmp_path / "run")(images(48)), encoder(images(48)))


def test_a_run_is_a_subject_too(tmp_path: Path) -> None:
    encoder = build_encoder(ModelConfig(name="resnet_tiny"), 32)
    save_encoder(encoder, tmp_path, mean=(0.5,) * 3, std=(0.2,) * 3)
    for text in (str(tmp_path), str(tmp_path / "encoder.safetensors")):
        assert torch.equal(open_subject(text)(images(32)), load_encoder(tmp_path)(images(32)))
    with pytest.raises(CheckpointError, match="there is no such run or file"):
        open_subject(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"timm:resnet81: unknown model \(did you mean timm:resnet18\?\)"),
        ("", "timm:: unknown model"),
        ("hf-hub:resnet18", "timm:hf-hub:resnet18: unknown model"),
        ("resnet18.none", r"no weights of this name; published: .*resnet18.a1_in1k"),
        ("vit_tiny_patch16_384.none", r"no weights of this name; published: vit_tiny_patch16_384"),
        ("vit_base_patch32_plus_256", r"no weights of this name; published: none"),
    ],
)
def test_names_that_timm_does_not_have(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_timm(name)
    assert "\n" not in str(caught.value)


def test_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"^timm:test_resnet: cannot load the weights \(.*\); check the conn"
    ) as caught:
        load_timm("test_resnet")
    assert "\n" not in str(caught.value)


def lose(name: str) -> Any:
    return lambda path: (path / name).unlink()


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_weights(path: Path) -> None:
    state = safetensors.torch.load_file(path / "model.safetensors")
    del state["blocks.0.attn.qkv.weight"]
    safetensors.torch.save_file(state, path / "model.safetensors")


def other_network(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architecture": "test_vti"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "Config file not found"),
        (lose("config.json"), "Config file not found"),
        (lose("model.safetensors"), "No suitable checkpoint"),
        (lambda path: (path / "config.json").write_text("{"), "Expecting property name"),
        (cut, "SafetensorError|incomplete|metadata|file"),
        (lose_weights, "blocks.0.attn.qkv.weight"),
        (other_network, "Unknown model"),
    ],
)
def test_bad_folders(damage: Any, reason: str, vit: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(vit, tmp_path / "bad"))
    damage(path)
    with pytest.raises(CheckpointError, match=rf"bad: cannot load .*({reason}).*; exp") as caught:
        load_timm(str(path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
