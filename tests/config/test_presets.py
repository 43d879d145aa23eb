from __future__ import annotations

import pytest

from ssgear import registry
from ssgear.config import presets
from ssgear.config.layers import build
from ssgear.errors import ConfigError
from ssgear.registry import Preset


@pytest.mark.parametrize("name", sorted(presets.collect()))
def test_every_preset_is_a_run(name: str) -> None:
    layer = presets.layer(name)
    config = build([layer])
    assert registry.canonical(layer.method or "") == config.method_name
    about = presets.collect()[name].about
    assert about
    assert "\n" not in about


def test_quick_is_there_and_takes_any_images() -> None:
    assert presets.DEFAULT == "quick"
    assert build([presets.layer("quick")]).data.source == "auto"


@pytest.mark.parametrize("name", ["simclr-cifar10", "simclr_cifar10"])
def test_both_spellings(name: str) -> None:
    assert presets.layer(name).settings["optim.name"] == "lars"


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError) as caught:
        presets.layer("quik")
    said = str(caught.value)
    assert said.startswith("--preset: unknown preset 'quik' (did you mean quick?); known: quick, ")
    assert "simclr-cifar10" in said.rpartition("known: ")[2].split(", ")


def test_a_method_may_have_its_own_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Preset(name="moco-quick", about="", settings={"method": "moco", "optim.lr": 7.0})
    monkeypatch.setattr(registry, "presets", lambda: {"moco-quick": own})
    assert presets.default_layer("moco").settings == {"optim.lr": 7.0}
    assert presets.default_layer("simclr").where == "preset quick"
    assert presets.default_layer(None).where == "preset quick"
