"""Every preset of the registry is a run: method, optimiser and schedule come out of it.

On the meta device: widths, queues and prototypes have their published sizes, and take no memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from ssgear import registry
from ssgear.config import presets
from ssgear.config.layers import build
from ssgear.data.loaders.choose import augmentation
from ssgear.distributed import World
from ssgear.engine.runtime import TorchRuntime
from ssgear.methods.base import Facts, check_groups
from ssgear.methods.exemplar_cnn.pretext import Patches
from ssgear.models.encoders import build_encoder
from tests.methods.noise import noise
from tests.methods.tiny import build as tiny

PRESETS = sorted(name for name in presets.collect() if not name.startswith("views-"))
SIDES = {"mini": 32, "auto": 32, "digits": 32, "cifar10": 32, "stl10": 96, "folder": 224}
IMAGES = 100_000


@pytest.mark.parametrize("name", PRESETS)
def test_it_builds_with_its_optimiser_and_its_schedule(name: str) -> None:
    config = build([presets.layer(name)])
    optim, size = config.optim, config.data.size or SIDES[config.data.source]
    views = augmentation(config.data, size)
    facts = Facts(
        augmentation=views,
        num_images=IMAGES,
        num_classes=10,
        epochs=optim.epochs,
        batch_size=optim.batch_size,
        size=size,
    )
    kind = registry.load("methods", config.method_name)
    pretext = kind.build_pretext(config.method)
    if isinstance(pretext, Patches):
        pretext.wrap_source(noise(config.method.classes or 100, 2 * size), facts)
    facts = dataclasses.replace(facts, pretext=pretext)
    with torch.device("meta"):
        method = kind.build(config.method, build_encoder(config.model, size, seed=0), facts)
    check_groups(method)
    assert method.view_specs(views)
    runtime = TorchRuntime(method, optim, World())
    steps = IMAGES // optim.batch_size
    total, warmup = optim.epochs * steps, round(optim.warmup_epochs * steps)
    assert warmup < total
    for phase in method.phases:
        for step in (0, warmup, total - 1):
            runtime.schedule(phase, step, total, warmup)
            groups = runtime.optimizer(phase.group).param_groups
            assert all(0 <= group["lr"] < math.inf for group in groups)
            assert any(group["weight_decay"] == 0 for group in groups)
            if step == warmup and runtime.groups[phase.group].optimizer is None:
                assert [group["lr"] for group in groups] == pytest.approx([optim.lr] * len(groups))


HIDDEN = "linear norm relu"
WITH_BIAS = f"{HIDDEN} linear+bias"


@pytest.mark.parametrize(
    ("name", "settings", "projector", "predictor"),
    [
        ("simclr", {}, WITH_BIAS, ""),
        ("supcon", {}, WITH_BIAS, ""),
        ("swav", {"prototypes": 4}, WITH_BIAS, ""),
        ("barlow_twins", {}, WITH_BIAS, ""),
        ("byol", {}, WITH_BIAS, WITH_BIAS),
        ("nnclr", {"queue_length": 12}, f"{HIDDEN} linear norm", WITH_BIAS),
        ("simsiam", {}, f"{HIDDEN} linear bare-norm", WITH_BIAS),
        ("moco", {"queue_length": 12}, "linear+bias relu linear+bias", ""),
        ("moco", {"version": "v3"}, f"{HIDDEN} linear bare-norm", WITH_BIAS),
    ],
)
def test_heads_are_made_of_the_published_layers(
    name: str, settings: dict[str, Any], projector: str, predictor: str
) -> None:
    """A bias before a norm does nothing; a bare norm has neither scale nor shift."""
    method = tiny(name, projector_dims=(7, 5), num_classes=3, **settings)
    found = [_layers(getattr(method, part, ())) for part in ("projector", "predictor")]
    assert found == [projector, predictor]


def _layers(head: Iterable[nn.Module]) -> str:
    return " ".join(map(_named, () if isinstance(head, nn.Identity) else head))


def _named(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear" if layer.bias is None else "linear+bias"
    if isinstance(layer, nn.BatchNorm1d):
        return "norm" if layer.affine else "bare-norm"
    return type(layer).__name__.lower()
