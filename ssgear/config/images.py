"""Which images a command reads: those of a run, those that a store names, or others."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ssgear.config.arguments import Given
from ssgear.config.layers import construct
from ssgear.config.options import options_of
from ssgear.config.runs import has_settings, settings_of
from ssgear.config.schema import DataConfig
from ssgear.config.values import convert
from ssgear.errors import ConfigError, DataError, SsgearError, refusing

IMAGES = (
    "source",
    "path",
    "test_path",
    "labels",
    "download",
    "test_share",
    "workers",
    "max_bad_share",
    "cache",
)
"""Fields of --data.* that say which images, and how they are read; the rest is for training."""

_NAMING = tuple(name for name in IMAGES if name not in ("download", "workers", "cache"))
"""Fields of --data.* that say which images, wherever they are read."""


def check(given: Iterable[Given], also: Collection[str] = ()) -> None:
    """Refuse --data.* options that say how images are fed to training, where none is trained.

    `also` are fields that do mean something to the command.
    """
    for option in given:
        section, _, name = option.key.partition(".")
        if section == "data" and name not in (*IMAGES, *also):
            raise ConfigError(
                f"{option.flag}: means nothing here, images are read as they are, as squares of "
                "the model's own size; leave it away"
            )


def of_run(run: Path, given: Iterable[str] = ()) -> DataConfig:
    """Return the images of a run, or the embedded ones where its settings are not there.

    Where the keys `given` name other images, only its size and workers are left of them.
    """
    data = settings_of(run).data if has_settings(run) else DataConfig()
    if {"data.source", "data.path"} & set(given):
        return DataConfig(size=data.size, workers=data.workers)
    return data


def to_fields(data: DataConfig) -> dict[str, object]:
    """Return what says which images these are, wherever one stands: plain JSON."""
    values = {name: getattr(data, name) for name in _NAMING}
    return {
        name: os.path.abspath(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }


def from_fields(fields: Mapping[str, object], where: str) -> DataConfig:
    """Return the images that `to_fields` has written.

    Raises:
        DataError: there is nothing at their path any more, or these are no settings of images.
    """

    def damaged(error: SsgearError) -> DataError:
        return DataError(f"{where}: what it says of its images is damaged: {error}")

    options = options_of(DataConfig)
    names = [name for name in _NAMING if name in fields]
    with refusing(SsgearError, damaged):
        values = {name: convert(fields[name], options[name].type, name) for name in names}
        data = construct(DataConfig, values)
    path = data.path
    if path is not None and not set(str(path)) & set("{*?[") and not path.exists():
        raise DataError(
            f"{where}: was made of the images in {path}, which is not there; name them by "
            "--data.path"
        )
    return data
