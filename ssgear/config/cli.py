"""Command line of training: argv -> `Launch`.

Precedence: defaults < preset < `--config FILE` < argv; `--resume DIR` puts that run's settings
below the preset. Words are read by the table of options (`arguments`). torch is imported once a
method's own settings are needed, not for `--help` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssgear import registry
from ssgear.config import arguments, help, presets
from ssgear.config.files import read_object
from ssgear.config.layers import Layer, build, construct, layer_of, over
from ssgear.config.options import options_for, options_of
from ssgear.config.schema import Config
from ssgear.errors import CheckpointError, ConfigError

TITLE = "Train an image encoder from unlabelled images."


@dataclass(frozen=True, kw_only=True)
class Launching:
    """Options that say where settings come from; they are not settings themselves."""

    preset: str = presets.DEFAULT
    """Settings of a common run; by default --method's own METHOD-quick, or quick."""
    config: Path | None = None
    """run.json or run.yaml: settings, nested or as dotted keys; the config.json of a run is one."""
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
    words, help_wanted = arguments.read(argv)
    launching = options_of(Launching)
    own = [option for option in words if option.key.startswith("method.")]
    general = [option for option in words if option not in own]
    values = arguments.values_of(arguments.check(general, {**launching, **options_of(Config)}))
    if help_wanted and not values.keys() & {"method_name", "preset", "config"}:
        help.show(TITLE, launching)
        raise SystemExit(0)
    base = build(_layers(values))
    method = registry.load("methods", base.method_name)
    whose = f"setting of {base.method_name}"
    values |= arguments.values_of(arguments.check(own, options_for(method), whose))
    options = construct(Launching, values)
    if help_wanted:
        help.show_all("python -m ssgear.train [OPTIONS]", TITLE, [options, base])
        raise SystemExit(0)
    config = over(base, values)
    if options.resume is not None and "output" in values:
        _check_place(options.resume, config.output)
    return Launch(
        config=config,
        resume=options.resume,
        dry_run=options.dry_run,
        given=frozenset(values.keys() - launching.keys()),
    )


def _check_place(resume: Path, output: Path | None) -> None:
    """Refuse to continue a run elsewhere: it goes on where its checkpoints are."""
    if output is not None and output.expanduser().resolve() != resume.expanduser().resolve():
        raise ConfigError(
            f"--output: {output} is not possible with --resume {resume}, which goes on in its own "
            "directory; leave it away, or copy that directory first"
        )


def _layers(values: Mapping[str, object]) -> list[Layer]:
    """Return what lies below argv, lowest first."""
    preset, file, resume, method = (
        None if values.get(key) is None else str(values[key])
        for key in ("preset", "config", "resume", "method_name")
    )
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
        layers.append(layer_of(read_object(Path(file)), file))
    if method is not None:
        layers.append(Layer(where="--method", method=method))
    places = {key: values[key] for key in _PLACES if values.get(key) is not None}
    return [*layers, Layer(where="argv", settings=places)]


def _of_run(directory: Path) -> Layer:
    file = directory / "config.json"
    if not directory.exists():
        raise CheckpointError(f"--resume: {directory} is not there; give a run's directory")
    if not file.is_file():
        raise CheckpointError(f"--resume: {directory} holds no run (there is no {file.name} in it)")
    return layer_of(read_object(file), str(file))
