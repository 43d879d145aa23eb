"""Command line of training: argv -> `Launch`, and settings as JSON and back.

Precedence: defaults < preset < `--config run.json` < argv; `--resume DIR` puts that run's settings
below the preset. Words are checked against the table of options (`arguments`), so that a mistake is
one line; tyro reads their values and lays out the full help. torch is imported once a method's own
settings are needed, not for `--help`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from ssgear import registry
from ssgear.config import arguments, presets
from ssgear.config.arguments import Given
from ssgear.config.layers import Layer, build, layer_of, read_json
from ssgear.config.options import options_for, options_of
from ssgear.config.schema import Config, DataConfig
from ssgear.config.values import plain
from ssgear.errors import CheckpointError, ConfigError, DataError, IdleError, SsgearError

TITLE = "Train an image encoder from unlabelled images."
RESUMABLE = (
    "log.",
    "checkpoint.",
    "eval.",
    "output",
    "data.workers",
    "data.cache",
    "data.max_bad_share",
    "engine.keep_memory",
    "engine.threads",
    "engine.timeout_s",
)
"""Keys, or their beginnings, that may change when a run is resumed; `optim.max_steps` may grow."""

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

_PATHS = ("path", "test_path", "labels")
_NAMING = tuple(name for name in IMAGES if name not in ("download", "workers", "cache"))
"""Fields of --data.* that say which images, wherever they are read."""


@dataclass(frozen=True, kw_only=True)
class Launching:
    """Options that say where settings come from; they are not settings themselves."""

    preset: str = presets.DEFAULT
    """Settings of a common run; by default --method's own METHOD-quick, or quick."""
    config: Path | None = None
    """run.json: settings as nested objects or dotted keys; the config.json of a run is one."""
    resume: Path | None = None
    """Continue the run in this directory, bit for bit."""
    dry_run: bool = False
    """Print the resolved settings as JSON and stop."""


_PLACES = ("views.store", "data.synthetic")
"""Paths without which other settings of a preset or file are refused: argv may bring them."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a command line asked for."""

    config: Config
    """Settings of the run."""
    resume: Path | None = None
    """Run to continue."""
    dry_run: bool = False
    """Print the settings and stop."""
    given: frozenset[str] = frozenset()
    """Dotted keys that the command line itself set."""


def parse(argv: Sequence[str]) -> Launch:
    """Read a command line; `--help` prints and leaves with status 0."""
    given, help_wanted = arguments.read(argv)
    general = {**options_of(Launching), **options_of(Config)}
    own = [each for each in given if each.key.startswith("method.")]
    rest = arguments.check([each for each in given if each not in own], general)
    words = {each.key: each.words for each in rest}
    if help_wanted and not words.keys() & {"method_name", "preset", "config"}:
        _show_help()
    base = build(_layers(words))
    method = registry.load("methods", base.method_name)
    own = arguments.check(own, options_for(method), f"setting of {base.method_name}")
    parsed = _over(base, [*rest, *own], method.Config, help_wanted)
    fields = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(Config)}
    keys = frozenset(each.key for each in (*rest, *own)) - options_of(Launching).keys()
    config = Config(**{**fields, "method_name": base.method_name})
    if parsed.resume is not None and "output" in keys:
        _check_place(parsed.resume, config.output)
    return Launch(config=config, resume=parsed.resume, dry_run=parsed.dry_run, given=keys)


def _check_place(resume: Path, output: Path | None) -> None:
    """Refuse to continue a run elsewhere: it goes on where its checkpoints are."""
    if output is not None and output.expanduser().resolve() != resume.expanduser().resolve():
        raise ConfigError(
            f"--output: {output} is not possible with --resume {resume}, which goes on in its own "
            "directory; leave it away, or copy that directory first"
        )


def _layers(words: Mapping[str, tuple[str, ...]]) -> list[Layer]:
    """Return what lies below argv, lowest first."""

    def last(key: str) -> str | None:
        word = words.get(key, ("None",))[0]
        return None if word == "None" else word

    preset, file, resume, method = map(last, ("preset", "config", "resume", "method_name"))
    if method is not None:
        registry.check("methods", method)
    layers = []
    if resume is not None:
        layers.append(_of_run(Path(resume)))
    if preset is not None:
        layers.append(presets.layer(preset))
    elif file is None and resume is None:
        layers.append(presets.default_layer(method))
    if file is not None:
        layers.append(layer_of(read_json(Path(file)), file))
    if method is not None:
        layers.append(Layer(where="--method", method=method))
    for key in _PLACES:
        if (place := last(key)) is not None:
            layers.append(Layer(where=f"--{key}", settings={key: place}))
    return layers


def _of_run(directory: Path) -> Layer:
    file = directory / "config.json"
    if not directory.exists():
        raise CheckpointError(f"--resume: {directory} is not there; give a run's directory")
    if not file.is_file():
        raise CheckpointError(f"--resume: {directory} holds no run (there is no {file.name} in it)")
    return layer_of(read_json(file), str(file))


def _show_help() -> NoReturn:
    from ssgear.config.help import show

    show(TITLE, options_of(Launching))
    raise SystemExit(0)


def _over(base: Config, given: Sequence[Given], own: type[Any], help_wanted: bool) -> Any:
    """Parse checked words on top of `base`.

    What a layer below says about a thing that argv switches off is left behind, as another method's
    settings are; what argv itself says about it is refused.
    """
    usual = {field.name: field.default for field in dataclasses.fields(own)}
    while True:
        try:
            return _tyro(given, base, own, help_wanted)
        except IdleError as error:
            if f"method.{error.field}" in {each.key for each in given}:
                raise
            method = dataclasses.replace(base.method, **{error.field: usual[error.field]})
            base = dataclasses.replace(base, method=method)


def _tyro(given: Sequence[Given], base: Config, own: type[Any], help_wanted: bool) -> Any:
    """Parse checked words on top of `base`; what tyro still refuses becomes one line."""
    import tyro

    command = dataclasses.make_dataclass(
        "Command",
        [
            ("method_name", Annotated[str, tyro.conf.arg(name="method")]),
            ("method", own),
        ],
        bases=(Config, Launching),
        frozen=True,
        kw_only=True,
    )
    values = {field.name: getattr(base, field.name) for field in dataclasses.fields(Config)}
    words = ["--help"] if help_wanted else arguments.words_for_tyro(given)
    complaint = io.StringIO()
    try:
        # tyro draws and colours for what standard output is, also on standard error
        quiet = contextlib.redirect_stdout(complaint if not help_wanted else sys.stdout)
        with contextlib.redirect_stderr(complaint), quiet:
            return tyro.cli(
                command,
                args=words,
                default=command(**values),
                prog="python -m ssgear.train",
                description=f"{TITLE} Presets: see --help alone.",
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise ConfigError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """Return what a box of tyro says above its first rule, in one line."""
    said: list[str] = []
    for row in box.splitlines()[1:]:  # the first is a title
        row = row.strip("│ ")
        if row.strip("-─╰╯"):
            said.append(row)
        elif said:
            break
    return re.sub("^Error parsing (--)?", "--", " ".join(said))


def dump(config: Config) -> dict[str, Any]:
    """Return settings as a nested mapping that JSON can hold."""
    settings: dict[str, Any] = plain(config)
    return settings


def to_json(config: Config) -> str:
    """Return settings as JSON; `--config` takes it back."""
    return json.dumps(dump(config), indent=2)


def load(mapping: Mapping[str, Any], where: str = "settings") -> Config:
    """Return the settings of a mapping of nested or dotted keys; `where` names it in errors."""
    return build([layer_of(mapping, where)])


def load_file(path: Path) -> Config:
    """Return the settings of a JSON file."""
    return load(read_json(path), str(path))


def has_settings(run: Path) -> bool:
    """Whether the settings of a run are there."""
    return _settings(run).is_file()


def settings_of(run: Path) -> Config:
    """Return the settings of a run, a directory or a file in it."""
    return load_file(_settings(run))


def _settings(run: Path) -> Path:
    return (run if run.is_dir() else run.parent) / "config.json"


def check_images(given: Iterable[Given], also: Collection[str] = ()) -> None:
    """Refuse --data.* options that say how images are fed to training, where none is trained.

    `also` are fields that do mean something to the command.
    """
    for each in given:
        section, _, name = each.key.partition(".")
        if section == "data" and name not in (*IMAGES, *also):
            raise ConfigError(
                f"{each.flag}: means nothing here, images are read as they are, as squares of the "
                "model's own size; leave it away"
            )


def images_of(run: Path, given: Iterable[str] = ()) -> DataConfig:
    """Return the images of a run, or the embedded ones where its settings are not there.

    Where the keys `given` name other images, only its size and workers are left of them.
    """
    data = settings_of(run).data if has_settings(run) else DataConfig()
    if {"data.source", "data.path"} & set(given):
        return DataConfig(size=data.size, workers=data.workers)
    return data


def naming(data: DataConfig) -> dict[str, Any]:
    """Return what says which images these are, wherever one stands: plain JSON."""
    found = {name: getattr(data, name) for name in _NAMING}
    return {
        name: os.path.abspath(value) if isinstance(value, Path) else value
        for name, value in found.items()
        if value is not None
    }


def named(fields: Mapping[str, Any], where: str) -> DataConfig:
    """Return the images that `naming` has named.

    Raises:
        DataError: there is nothing at their path any more, or these are no settings of images.
    """
    places = {name: Path(str(fields[name])) for name in _PATHS if name in fields}
    try:
        data = DataConfig(**{name: fields[name] for name in _NAMING if name in fields} | places)
    except (TypeError, SsgearError) as error:
        raise DataError(f"{where}: what it says of its images is damaged: {error}") from None
    path = places.get("path")
    if path is not None and not set(str(path)) & set("{*?[") and not path.exists():
        raise DataError(
            f"{where}: was made of the images in {path}, which is not there; name them by "
            "--data.path"
        )
    return data


def differences(before: Config, now: Config) -> list[str]:
    """Return the fields that keep a run from being resumed, each as `optim.lr (0.4, now 0.1)`."""
    old, new = _leaves(dump(before)), _leaves(dump(now))
    return [
        f"{key} ({old.get(key)}, now {new.get(key)})"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
        and not key.startswith(RESUMABLE)
        and not _grows(key, old.get(key), new.get(key))
        and not _both_read_files(key, old.get(key), new.get(key))
    ]


def _grows(key: str, old: int | None, new: int | None) -> bool:
    return key == "optim.max_steps" and old is not None and (new is None or new > old)


def _both_read_files(key: str, old: object, new: object) -> bool:
    """Whether one engine that reads files takes over from another: they number lost files alike."""
    return key == "data.loader" and {old, new} == {"torch", "dali"}


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in mapping.items():
        found |= (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return found
