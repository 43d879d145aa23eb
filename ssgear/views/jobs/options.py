"""Options of `python -m ssgear.generate`: its own, and those of the generator that it names.

    asked, own, named = parse(["--generator", "gan", "--run", "RUN", ...])

Listing them imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssgear import registry
from ssgear.config import arguments, help, images, presets
from ssgear.config.arguments import Words
from ssgear.config.layers import construct
from ssgear.config.options import options_of
from ssgear.config.schema import DataConfig
from ssgear.errors import require
from ssgear.views.jobs.plan import piece_of

USAGE = "python -m ssgear.generate"
INSTEAD = ("verify", "merge", "preview", "estimate")
"""Options that ask for something else than views."""
_OF_A_STORE = ("verify", "preview")
"""Those that may be followed by the store."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate, how much of it, and where it goes."""

    preset: str | None = None
    """Published setting: sd2-caption-tiny-imagenet, sd-image-unclip; other options change it."""
    generator: str = "gan"
    """View generator: gan, icgan, sd2-caption, sd-image, or a class: package.module:Class."""
    count: int | None = None
    """Images that the store is to hold, for a generator that draws from noise; may be larger
    later."""
    views: int | None = None
    """Views of each image, for a generator that makes views of images, by default 1; may be larger
    later."""
    output: Path | None = None
    """Directory of the store."""
    seed: int = 0
    """Decides every image together with its number."""
    batch_size: int | None = None
    """Images made at a time, by default as the generator likes. It may change an image's last
    bits, so a store keeps to one."""
    shard_size: int = 1000
    """Images of a tar file."""
    format: Literal["webp", "jpg"] = "webp"
    """webp loses nothing and suits small images, jpg (quality 95) is smaller."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is there."""
    executor: Literal["local", "ray"] = "local"
    """Where shards are made: on this machine, or by Ray, on a cluster with a shared file system."""
    ray_address: str | None = None
    """Cluster of --executor ray, HOST:PORT or auto; by default a Ray is started here."""
    workers: int | None = None
    """Processes that make shards, by default one for each GPU, or one (of each Ray machine)."""
    shard: str | None = None
    """i/n: make the i-th of n parts (1/8 to 8/8) of the store, for n commands on any machines."""
    verify: bool = False
    """Read all of --output (or --verify STORE) instead, and say what is damaged."""
    merge: tuple[Path, ...] = ()
    """Put these stores of the same settings, whole or in part, into --output instead."""
    preview: bool = False
    """Show some of --output (or --preview STORE) instead: preview.html and preview.png in it."""
    estimate: bool = False
    """Make a few batches and throw them away, and say how long, how large --output will be."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images to make views of, of the training split; by default those of the run."""

    def __post_init__(self) -> None:
        """Refuse numbers below one and seeds that no generator takes."""
        for option in ("count", "views", "batch_size", "shard_size", "workers"):
            value = getattr(self, option)
            flag = option.replace("_", "-")
            require(value is None or value >= 1, f"--{flag}", value, "use at least 1")
        require(0 <= self.seed < 2**32, "--seed", self.seed, "use 0 to 2^32 - 1")
        right = "it goes with --executor ray"
        address = self.ray_address
        require(address is None or self.executor == "ray", "--ray-address", address, right)
        piece_of(self.shard)
        instead = [f"--{name}" for name in INSTEAD if getattr(self, name)]
        require(
            len(instead) < 2,
            instead[0] if instead else "",
            "and " + " and ".join(instead[1:]),
            "use one of them",
        )


def parse(words: Sequence[str]) -> tuple[Generation, Any, tuple[str, ...]]:
    """Read the options: the command's, those of the generator that it names, and who names images.

    The last are the options that say which images views are to be made of, as they were typed.
    """
    typed, help_wanted = arguments.read(words)
    typed = [part for option in typed for part in _with_output(option)]
    preset, name = _last(typed, "preset"), _last(typed, "generator")
    if preset is not None:
        typed = [*presets.words_of_views(preset, name), *typed]
    name = _last(typed, "generator") or Generation.generator
    kind = registry.load("views", name, "--generator")
    options = {**options_of(Generation), **options_of(kind.Config)}
    given = arguments.check(typed, options, listing="--help")
    images.check(given)
    values = arguments.values_of(given)
    run = values.get("run")
    data = images.of_run(run, values) if isinstance(run, Path) else DataConfig()
    default = Generation(data=data)
    if help_wanted:
        about = "Draw images from a generator into a store, to be trained on."
        help.show_all(f"{USAGE} [OPTIONS]", about, [default, kind.Config()])
        raise SystemExit(0)
    named = tuple(e.flag for e in given if e.key.startswith("data.") or e.key == "views")
    return construct(Generation, values, base=default), construct(kind.Config, values), named


def _with_output(each: Words) -> list[Words]:
    """Take --verify STORE for --verify --output STORE, and --preview STORE likewise."""
    if each.key not in _OF_A_STORE or [word.lower() for word in each.words] in (
        [],
        ["true"],
        ["false"],
    ):
        return [each]
    output = dataclasses.replace(each, flag="--output", key="output")
    return [dataclasses.replace(each, words=()), output]


def _last(given: Sequence[Words], key: str) -> str | None:
    """Return the value of an option, where it was given with one."""
    words = [each.words[0] for each in given if each.key == key and len(each.words) == 1]
    return words[-1] if words else None
