"""Learning rates by layer, against timm's own grouping of the same network with its classifier."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import nn

from ssgear.config.schema import ModelConfig
from ssgear.evaluation.probes.layer_decay import HEAD, layer_groups, layer_numbers
from ssgear.models.encoders import build_encoder

Settings = dict[str, tuple[float, float]]
"""Scale of the learning rate and weight decay of a parameter by its name."""


def settings_of(groups: list[dict[str, Any]], modules: dict[str, nn.Module]) -> Settings:
    names = {
        id(parameter): f"{prefix}{name}"
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {}),
        ("test_vit", {"global_pool": "avg"}),  # a norm of its own before the classifier
        ("test_vit3", {}),
        ("test_efficientnet", {}),
        ("test_convnext", {}),
        ("resnet18", {}),
        ("swin_tiny_patch4_window7_224", {}),
    ],
)
def test_scales_are_those_of_timm(name: str, options: dict[str, Any]) -> None:
    network: Any = timm.create_model(name, num_classes=7, **options)
    expected = timm.optim.param_groups_layer_decay(
        network, weight_decay=0.03, no_weight_decay_list=network.no_weight_decay()
        if hasattr(network, "no_weight_decay") else (), layer_decay=0.6,
    )  # fmt: skip
    wanted = settings_of(expected, {"": network})
    head = network.get_classifier()
    prefix = next(n for n, m in network.named_modules() if m is head)
    weights = {id(parameter) for parameter in head.parameters()}
    network.reset_classifier(0)
    groups = layer_groups(network, head, weight_decay=0.03, layer_decay=0.6)
    result = settings_of(groups, {"": network, f"{prefix}.": head})
    assert result.keys() == wanted.keys()
    for parameter, (scale, decay) in wanted.items():
        assert result[parameter] == (pytest.approx(scale), decay), parameter
    assert {scale for scale, _ in result.values()} > {1.0, 0.6}
    top = [g for g in groups if {id(p) for p in g["params"]} & weights]
    assert all(g["lr_scale"] == 1 for g in top)


@pytest.mark.parametrize(
    ("name", "first", "last", "layers"),
    [
        ("nin3", "block1.0.weight", "block3.6.weight", 3),
        ("7c3-9c3-5f", "layer1.0.weight", "layer3.0.bias", 3),
        ("drlim", "layers.0.weight", "layers.9.weight", 4),  # three convolutions, one linear
        ("resnet_tiny", "conv1.weight", "layer4.0.bn2.bias", 5),
    ],
)
def test_own_networks(name: str, first: str, last: str, layers: int) -> None:
    network = build_encoder(ModelConfig(name=name), 32).network
    numbers = layer_numbers(network)
    assert numbers[HEAD] == layers and (numbers[first], numbers[last]) == (0, layers - 1)
    assert set(numbers) == {HEAD, *(name for name, _ in network.named_parameters())}
    head = nn.Linear(3, 2)
    groups = layer_groups(network, head, weight_decay=0.1, layer_decay=0.5)
    settings = settings_of(groups, {"": network, f"{HEAD}.": head})
    assert settings[first] == (0.5**layers, 0.1) and settings[last][0] == 0.5
    assert settings[f"{HEAD}.weight"] == (1, 0.1) and settings[f"{HEAD}.bias"] == (1, 0)


def test_frozen_parameters_are_left_out_and_all_others_are_there_once() -> None:
    network, head = build_encoder(ModelConfig(name="nin3"), 32).network, nn.Linear(3, 2)
    network.get_parameter("block1.0.weight").requires_grad_(False)
    groups = layer_groups(network, head, weight_decay=0.1, layer_decay=1.0)
    parameters = [parameter for group in groups for parameter in group["params"]]
    trained = [p for p in (*network.parameters(), *head.parameters()) if p.requires_grad]
    assert sorted(map(id, parameters)) == sorted(map(id, trained))
    assert {group["lr_scale"] for group in groups} == {1.0}
    torch.optim.AdamW(groups, lr=0.1)  # which refuses a parameter in two groups
