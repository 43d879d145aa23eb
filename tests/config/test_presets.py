from __future__ import annotations

from pathlib import Path

import pytest

from ssgear import registry
from ssgear.config import cli, presets
from ssgear.config.layers import build, layer_of
from ssgear.errors import ConfigError


@pytest.mark.parametrize("name", sorted(presets.collect()))
def test_every_preset_is_a_run(name: str) -> None:
    layer = presets.layer(name)
    store = {"views.store": "STORE"} if name.startswith("views-") else {}
    config = build([layer, layer_of(store, "test")])
    assert registry.canonical(layer.method or "") == config.method_name
    about = presets.collect()[name].about
    assert about
    assert "\n" not in about


@pytest.mark.parametrize("name", sorted(presets.collect()))
def test_recipes_with_lars_take_the_trust_of_their_papers(name: str) -> None:
    """0.02, clipped, is solo-learn's for CIFAR; ImageNet's recipes have 0.001 and no clipping.

    Clipped, --optim.lr and its cosine do nothing wherever the trust ratio is the smaller one.
    """
    store = {"views.store": "STORE"} if name.startswith("views-") else {}
    optim = build([presets.layer(name), layer_of(store, "test")]).optim
    if optim.name == "lars":
        published = (0.001, False) if name.endswith("-imagenet") else (0.02, True)
        assert (optim.lars_eta, optim.lars_clip) == published


SOLO_LEARN = {
    "simclr": ("lars", 0.4, 1e-4, {"temperature": 0.2, "projector_dims": (2048, 256)}),
    "moco": ("sgd", 0.3, 1e-4, {
        "temperature": 0.2, "projector_dims": (2048, 256), "queue_length": 32768,
        "momentum": 0.99, "final_momentum": 0.999,
    }),
    "byol": ("lars", 1.0, 1e-5, {
        "projector_dims": (4096, 256), "predictor_dim": 4096, "momentum": 0.99,
        "final_momentum": 1.0,
    }),
    "simsiam": ("sgd", 0.5, 1e-5, {
        "projector_dims": (2048, 2048, 2048), "predictor_dim": 512, "constant_predictor_lr": True,
    }),
    "barlow-twins": ("lars", 0.3, 1e-4, {
        "projector_dims": (2048, 2048, 2048), "loss_scale": 0.1, "lambd": 0.0051,
    }),
    "swav": ("lars", 0.6, 1e-6, {
        "projector_dims": (2048, 128), "prototypes": 3000, "temperature": 0.1, "epsilon": 0.05,
        "sinkhorn_iterations": 3, "freeze_prototypes_epochs": 2, "queue_length": 3840,
        "queue_from_epoch": 50,
    }),
    "nnclr": ("lars", 0.4, 1e-5, {
        "temperature": 0.2, "projector_dims": (2048, 2048, 256), "predictor_dim": 4096,
        "queue_length": 65536,
    }),
}  # fmt: skip
"""Its recipes for CIFAR-10 (scripts/pretrain/cifar): batch 256, 1000 epochs, 10 of them warm-up."""


@pytest.mark.parametrize("name", SOLO_LEARN)
def test_recipes_for_cifar10_are_solo_learns(name: str) -> None:
    config = build([presets.layer(f"{name}-cifar10")])
    optim, (optimizer, lr, decay, settings) = config.optim, SOLO_LEARN[name]
    assert (optim.name, optim.lr, optim.weight_decay) == (optimizer, lr, decay)
    assert (optim.batch_size, optim.epochs, optim.warmup_epochs) == (256, 1000, 10.0)
    assert {field: getattr(config.method, field) for field in settings} == settings
    solarised = name in ("byol", "barlow-twins", "nnclr")
    assert config.data.augmentation == ("byol-cifar" if solarised else "simclr-cifar")


@pytest.mark.parametrize("name", [n for n in presets.collect() if n.endswith("-imagenet")])
def test_imagenet_is_never_the_embedded_images(name: str) -> None:
    assert build([presets.layer(name)]).data.source == "folder"


def test_quick_is_there_and_takes_any_images() -> None:
    assert presets.DEFAULT == "quick"
    assert build([presets.layer("quick")]).data.source == "auto"


@pytest.mark.parametrize("name", ["simclr-cifar10", "simclr_cifar10"])
def test_both_spellings(name: str) -> None:
    assert presets.layer(name).settings["optim.name"] == "lars"


def test_a_preset_of_views_asks_for_a_store() -> None:
    with pytest.raises(ConfigError, match=r"--views\.p.*name the store of views by --views\.store"):
        build([presets.layer("views-half")])
    launched = cli.parse(["--preset", "views-half", "--views.store", "STORE", "--seed", "3"])
    assert (launched.config.views.store, launched.config.views.probability) == (Path("STORE"), 0.5)
    given = layer_of({"views.store": "STORE"}, "test")
    config = build([presets.layer("views-pair"), given])
    assert (config.views.policy, config.data.augmentation) == ("pair", "crop-only")


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError) as caught:
        presets.layer("quik")
    number = len(presets.collect())
    assert str(caught.value) == (
        f"--preset: unknown preset 'quik' (did you mean quick?); --help lists all {number}"
    )
    with pytest.raises(ConfigError) as caught:
        presets.layer("nnclr")
    assert str(caught.value) == (
        "--preset: nnclr is a method; use --method nnclr, or a preset of it: nnclr-quick, "
        "nnclr-cifar10, nnclr-imagenet, nnclr-tiny"
    )


def test_a_method_may_have_its_own_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"moco-quick": {"method": "moco", "optim.lr": 7.0}}
    monkeypatch.setattr(registry, "presets", lambda: own)
    assert presets.default_layer("moco").settings == {"optim.lr": 7.0}
    assert presets.default_layer("simclr").where == "preset quick"
    assert presets.default_layer(None).where == "preset quick"


TABLE: dict[str, presets.Settings] = {
    "recipe": {"optim.lr": 0.4, "optim.epochs": 100, "data.source": "cifar10"},
    "simclr-run": {"extends": "recipe", "method": "simclr", "method.temperature": 0.1},
    "simclr-long": {"extends": "simclr-run", "method": "simclr", "optim.epochs": 800},
    "moco-run": {"extends": "simclr-long", "method": "moco", "method.queue_length": 64},
    "nameless": {"extends": "simclr-run", "optim.lr": 1.0},
    "lost": {"extends": "recpe", "method": "moco"},
    "narcissus": {"extends": "narcissus"},
    "hen": {"extends": "egg"},
    "egg": {"extends": "hen"},
}


def test_a_preset_has_the_settings_that_it_extends_and_may_change_them() -> None:
    shared = {"data.source": "cifar10", "method": "simclr", "method.temperature": 0.1}
    long = presets.resolve("simclr-long", TABLE)
    assert long == {**shared, "optim.lr": 0.4, "optim.epochs": 800}
    assert presets.resolve("recipe", TABLE) == TABLE["recipe"]


def test_an_extended_preset_of_another_method_leaves_its_own_settings_behind() -> None:
    assert presets.resolve("moco-run", TABLE) == {
        "data.source": "cifar10",
        "optim.lr": 0.4,
        "optim.epochs": 800,
        "method": "moco",
        "method.queue_length": 64,
    }


def test_a_preset_may_take_its_method_from_what_it_extends() -> None:
    found = presets.resolve("nameless", TABLE)
    assert (found["method"], found["method.temperature"]) == ("simclr", 0.1)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lost", "preset lost: extends: unknown preset 'recpe' (did you mean recipe?)"),
        (
            "narcissus",
            "preset narcissus: extends: a circle of presets (narcissus -> narcissus)",
        ),
        ("hen", "preset egg: extends: a circle of presets (hen -> egg -> hen)"),
    ],
)
def test_what_cannot_be_extended_is_named(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        presets.resolve(name, TABLE)
    assert str(caught.value) == complaint


def test_recipes_are_for_presets_alone() -> None:
    assert not presets.RECIPES.keys() & presets.collect().keys()
    with pytest.raises(ConfigError, match="--preset: unknown preset 'imagenet-sgd'"):
        presets.layer("imagenet-sgd")
