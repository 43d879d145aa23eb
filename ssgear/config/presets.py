"""Presets that belong to no method: each function that returns `Settings` is one.

It returns dotted keys; its docstring is its help, its name with hyphens what `--preset` takes. A
method's own presets are the literal `PRESETS` in its file (`ssgear.registry`).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from ssgear import registry
from ssgear.config.arguments import Given
from ssgear.config.layers import Layer, layer_of
from ssgear.errors import ConfigError, did_you_mean
from ssgear.registry import Preset

Settings = dict[str, Any]
DEFAULT = "quick"


def quick() -> Settings:
    """Minutes on two cores, from the embedded images to the report: a small ResNet at 32 pixels."""
    # short runs want many steps: 12 epochs of batch 64 probed at 45.0 %, of batch 128 at 42.5 %;
    # and mild crops: from 8, 20, 30 % of the image on, 44 epochs at tau 0.1 gave 50.4, 50.7, 52.8 %
    return {
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
    }


def views_pair() -> Settings:
    """Caption route as published: enlarged original beside its view, crops and flips alone."""
    return {
        "method": "simclr",
        "views.policy": "pair",
        "views.probability": 1.0,
        "data.augmentation": "crop-only",
    }


def views_always() -> Settings:
    """Instance route as published: the second view is always a stored one (p = 1)."""
    return {"method": "simclr", "views.policy": "second-only", "views.probability": 1.0}


def views_half() -> Settings:
    """Instance route as published: the second view is a stored one half of the time (p = 0.5)."""
    return {"method": "simclr", "views.policy": "second-only", "views.probability": 0.5}


def collect() -> dict[str, Preset]:
    """Return every preset by name; nothing is imported for it."""
    found: dict[str, Preset] = {}
    for name, value in globals().items():
        if inspect.isfunction(value) and value.__annotations__.get("return") == "Settings":
            about, name = inspect.getdoc(value) or "", name.replace("_", "-")
            found[name] = Preset(name=name, about=about, settings=value())
    return {**found, **registry.presets()}


def given_by_views(name: str, generator: str | None) -> list[Given]:
    """Return what a preset of views says, as if it stood first on the command line."""
    known = registry.presets("views")
    name = name.replace("_", "-")
    if name not in known:
        raise ConfigError(
            f"--preset: unknown preset {name!r}{did_you_mean(name, known)}; "
            f"known: {', '.join(known)}"
        )
    settings = known[name].settings
    if generator is not None and registry.canonical(generator) != settings["generator"]:
        raise ConfigError(
            f"--generator: preset {name} is of {settings['generator']}, not of {generator}; leave "
            "--generator away"
        )
    flags = {key: "--" + key.replace("_", "-") for key in settings}
    return [Given(flag=flags[key], key=key, words=(str(settings[key]),)) for key in settings]


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
