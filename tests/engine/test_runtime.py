"""What a group's optimiser takes from the run's settings."""

from __future__ import annotations

from torch import nn

from ssgear.config.schema import OptimConfig
from ssgear.engine.runtime import optimizer_of
from ssgear.methods.base import Group


def test_lars_takes_trust_and_clipping_from_the_settings() -> None:
    group = Group("encoder", {"encoder": nn.Linear(3, 2)})
    default = optimizer_of(group, OptimConfig(name="lars")).param_groups
    assert [(g["eta"], g["clip"]) for g in default] == [(0.02, True)] * 2
    settings = OptimConfig(name="lars", lars_eta=0.001, lars_clip=False)
    published = optimizer_of(group, settings).param_groups
    assert [(g["eta"], g["clip"]) for g in published] == [(0.001, False)] * 2
