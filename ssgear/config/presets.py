"""Presets by name, those of methods among them, and the recipes that they share.

    layer("moco-quick")        # settings of a common run, to lay others on

A method's presets are the literal `PRESETS` in its file (`ssgear.registry`), a preset of no method
stands here. Each may say `"extends": NAME`, of a preset or of a recipe here, and then names only
what it changes; `method.*` of another method is left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ssgear import registry
from ssgear.config.arguments import Words
from ssgear.config.layers import Layer, layer_of
from ssgear.errors import ConfigError, did_you_mean

Settings = Mapping[str, object]
DEFAULT = "quick"

RECIPES: dict[str, Settings] = {
    # solo-learn's (scripts/pretrain/cifar)
    "cifar10": {
        "data.source": "cifar10",
        "data.augmentation": "simclr-cifar",
        "model.name": "resnet18",
        "optim.name": "lars",
        "optim.batch_size": 256,
        "optim.weight_decay": 1e-4,
        "optim.epochs": 1000,
        "optim.warmup_epochs": 10.0,
        "eval.every": 20,
        "checkpoint.every": 2000,
    },
    # SimCLR's, large batches
    "imagenet": {
        "data.source": "folder",
        "data.augmentation": "simclr",
        "model.name": "resnet50",
        "optim.name": "lars",
        "optim.lars_eta": 0.001,
        "optim.lars_clip": False,
        "optim.batch_size": 4096,
        "optim.lr": 4.8,
        "optim.weight_decay": 1e-6,
        "optim.epochs": 1000,
        "optim.warmup_epochs": 10.0,
        "eval.every": 20,
        "checkpoint.every": 2000,
    },
    # MoCo's, small ones
    "imagenet-sgd": {
        "data.source": "folder",
        "data.augmentation": "moco-v2",
        "model.name": "resnet50",
        "optim.name": "sgd",
        "optim.batch_size": 256,
        "optim.weight_decay": 1e-4,
        "optim.warmup_epochs": 0.0,
        "eval.every": 20,
        "checkpoint.every": 5000,
    },
}
"""What presets extend, without being a run of their own."""

PRESETS: dict[str, Settings] = {
    # short runs want many steps: 12 epochs of batch 64 probed at 45.0 %, of batch 128 at 42.5 %;
    # and mild crops: from 8, 20, 30 % of the image on, 44 epochs at tau 0.1 gave 50.4, 50.7, 52.8 %
    "quick": {
        "method": "simclr",
        "method.temperature": 0.1,
        "method.projector_dims": (256, 64),
        "data.size": 32,
        "data.min_scale": 0.3,
        "model.name": "resnet_tiny",
        "optim.name": "adamw",
        "optim.lr": 4e-3,
        "optim.weight_decay": 1e-4,
        "optim.batch_size": 64,
        "optim.epochs": 38,
        "optim.warmup_epochs": 2.0,
        "log.every": 20,
        "eval.every": 10,
    },
    "views-pair": {
        "method": "simclr",
        "views.policy": "pair",
        "views.probability": 1.0,
        "data.augmentation": "crop-only",
    },
    "views-always": {
        "method": "simclr",
        "views.policy": "second-only",
        "views.probability": 1.0,
    },
    "views-half": {"extends": "views-always", "views.probability": 0.5},
}
ABOUT = {
    "quick": "Minutes on two cores, from the embedded images to the report: a small ResNet at 32 "
    "pixels.",
    "views-pair": "Caption route as published: enlarged original beside its view, crops and flips "
    "alone.",
    "views-always": "Instance route as published: the second view is always a stored one (p = 1).",
    "views-half": "Instance route as published: the second view is a stored one half of the time "
    "(p = 0.5).",
}
"""Line of help of a preset of no method."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a common run."""

    about: str
    """One line of help."""
    settings: Settings
    """Dotted key -> value; the key `method` (or `generator`) names whose it is."""


def collect() -> dict[str, Preset]:
    """Return every preset of training by name; nothing is imported for it."""
    literals = PRESETS | registry.presets()
    table = RECIPES | literals
    presets = {}
    for name in literals:
        settings = resolve(name, table)
        about = ABOUT.get(name) or _summary(settings)
        presets[name] = Preset(about=about, settings=settings)
    return presets


def resolve(name: str, table: Mapping[str, Settings], above: tuple[str, ...] = ()) -> Settings:
    """Return the settings of a preset of `table`, laid on those of the one that it extends.

    `above` are the presets that extend it.
    """
    own = table[name]
    if "extends" not in own:
        return own
    base = str(own["extends"])
    if base not in table:
        near = did_you_mean(base, table)
        raise ConfigError(f"preset {name}: extends: unknown preset {base!r}{near}")
    if base in (name, *above):
        circle = " -> ".join((*above, name, base))
        raise ConfigError(f"preset {name}: extends: a circle of presets ({circle})")
    settings = dict(resolve(base, table, (*above, name)))
    if own.get("method", settings.get("method")) != settings.get("method"):
        settings = {key: settings[key] for key in settings if not key.startswith("method.")}
    return settings | {key: own[key] for key in own if key != "extends"}


def _summary(settings: Settings) -> str:
    owner, source = settings["method"], settings.get("data.source")
    epochs = settings.get("optim.epochs")
    parts = [
        f"{owner} on {source}" if source else owner,
        settings.get("model.name"),
        settings.get("optim.name"),
        f"{epochs} epochs" if epochs else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def words_of_views(name: str, generator: str | None) -> list[Words]:
    """Return what a preset of views says, as if it stood first on the command line."""
    known = registry.presets("views")
    name = name.replace("_", "-")
    if name not in known:
        raise ConfigError(
            f"--preset: unknown preset {name!r}{did_you_mean(name, known)}; "
            f"known: {', '.join(known)}"
        )
    settings = resolve(name, known)
    if generator is not None and registry.canonical(generator) != settings["generator"]:
        raise ConfigError(
            f"--generator: preset {name} is of {settings['generator']}, not of {generator}; leave "
            "--generator away"
        )
    flags = {key: "--" + key.replace("_", "-") for key in settings}
    return [Words(flag=flags[key], key=key, words=(str(settings[key]),)) for key in settings]


def layer(name: str) -> Layer:
    """Return a preset as a layer; a name that is none is an error."""
    known = collect()
    name = name.replace("_", "-")
    if name not in known:
        raise ConfigError(f"--preset: {_unknown(name, known)}")
    return layer_of(known[name].settings, f"preset {name}")


def _unknown(name: str, known: Collection[str]) -> str:
    """Tell what a name might mean; all presets together would be a page."""
    own = [each for each in known if each.startswith(f"{name}-")]
    if name in registry.names("methods"):
        presets = f", or a preset of it: {', '.join(own)}" if own else ""
        return f"{name} is a method; use --method {name}{presets}"
    return f"unknown preset {name!r}{did_you_mean(name, known)}; --help lists all {len(known)}"


def default_layer(method: str | None) -> Layer:
    """Return what runs without a preset: the method's own `METHOD-quick`, or `quick`."""
    own = f"{registry.canonical(method)}-{DEFAULT}" if method is not None else DEFAULT
    return layer(own if own in collect() else DEFAULT)
