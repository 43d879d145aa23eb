"""Generators as two plain files, generator.safetensors and generator.json.

    save_generator(generator, run, classes=("cat", "dog"))   # weights as they are
    generator = load_generator(run)                          # eval mode

Whoever saves applies an average of the weights first, if there is one. `read_generator` returns
what was written beside the weights too.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssgear.config.values import convert, plain
from ssgear.errors import ArgumentError, CheckpointError, did_you_mean
from ssgear.models import saved
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANGenerator
from ssgear.models.gan.sampling import Generator
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config
from ssgear.models.heads import seeded
from ssgear.storage.atomic import Json

NAME = "generator"
KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "dcgan": (DCGANConfig, DCGANGenerator),
    "stylegan2": (StyleGAN2Config, StyleGAN2Generator),
}
"""Settings and network of every kind."""


@dataclass(frozen=True, kw_only=True)
class SavedGenerator:
    """A generator as it was read, with what was written beside it."""

    generator: Generator
    """In eval mode, on the CPU."""
    kind: str
    """dcgan or stylegan2."""
    classes: tuple[str, ...] | None
    """Name of each class of a label-conditional generator, where they were given."""
    extra: dict[str, Json]
    """What `save_generator` was given."""
    digest: str
    """Of the file of weights: which generator this is."""


def save_generator(
    generator: Generator,
    directory: Path,
    *,
    classes: Sequence[str] | None = None,
    extra: Mapping[str, Json] | None = None,
) -> None:
    """Write the weights and what is needed to use them; `extra` is any JSON that goes with them.

    Raises:
        ArgumentError: `classes` are not as many as the generator's labels.
    """
    condition = generator.config.condition
    if classes is not None and (condition.kind != "label" or len(classes) != condition.size):
        labels = condition.size if condition.kind == "label" else 0
        raise ArgumentError(f"classes: {len(classes)} names, but the generator has {labels} labels")
    kind = next(kind for kind, (_, network) in KINDS.items() if isinstance(generator, network))
    fields = {
        "kind": kind,
        "config": plain(generator.config),
        "classes": None if classes is None else list(classes),
        "extra": dict(extra or {}),
    }
    saved.write(generator, directory, NAME, fields)


def load_generator(run_dir_or_file: str | Path) -> Generator:
    """Read a trained generator from its run's directory, or from its generator.safetensors."""
    return read_generator(run_dir_or_file).generator


def read_generator(run_dir_or_file: str | Path) -> SavedGenerator:
    """Read a trained generator with what was written beside it.

    Raises:
        CheckpointError: a file is missing, damaged, or not what `save_generator` writes.
    """
    weights, description = saved.locate(run_dir_or_file, NAME)
    state, digest = saved.read_weights(weights, NAME)
    fields = saved.read_description(description)
    with saved.refusing_settings(description):
        kind, classes, extra = fields["kind"], fields["classes"], dict(fields["extra"])
        config_type, network = _find(kind)
        config = _config(config_type, fields["config"], "config")
        expected = fields["weights"]["blake2b"]
        classes = None if classes is None else _names(classes, config.condition)
    saved.check_digest(digest, expected, description, weights)
    # without memory first: a foreign description may ask for any number of weights
    with torch.device("meta"):
        problem = saved.misfit(network(config), state)
    if problem is not None:
        raise CheckpointError(
            f"{weights}: does not fit a {kind} of {config.resolution} pixels as {description.name} "
            f"describes it: {problem}"
        )
    with seeded(0, NAME):
        generator = network(config)
    generator.load_state_dict(state)
    return SavedGenerator(
        generator=generator.eval(), kind=kind, classes=classes, extra=extra, digest=digest
    )


def _find(kind: object) -> tuple[type[Any], type[Any]]:
    if not isinstance(kind, str) or kind not in KINDS:
        near = did_you_mean(str(kind), KINDS)
        raise ValueError(f"kind is {kind!r}{near}; known: {', '.join(KINDS)}")
    return KINDS[kind]


def _config(config_type: type[Any], fields: object, where: str) -> Any:
    """Build frozen settings from JSON; every field has to be there, and no other."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} is {fields!r}")
    hints = typing.get_type_hints(config_type)
    names = {field.name for field in dataclasses.fields(config_type)}
    if fields.keys() != names:
        wrong = sorted(fields.keys() ^ names)[0]
        raise ValueError(f"{where}.{wrong} is {'missing' if wrong in names else 'not known'}")
    values = {
        name: _config(Condition, value, f"{where}.{name}")
        if hints[name] is Condition
        else convert(value, hints[name], f"{where}.{name}")
        for name, value in fields.items()
    }
    return config_type(**values)


def _names(classes: Sequence[object], condition: Condition) -> tuple[str, ...]:
    if len(classes) != condition.size or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes are {len(classes)}, the labels {condition.size}")
    return tuple(str(name) for name in classes)
