"""`python -m ssgear.generate`: a generator -> images -> a view store (storage/view_store.py).

A store that is there is finished, or enlarged by a larger --count or --views: image i is a function
of the seed and i alone, view k of a real image of the seed, the image and k, whatever makes them
and in which order. What is common to all executors is in views/_plan.py and views/_worker.py. The
last line on standard output is the path of the store; a user's mistake is one line on standard
error and exit status 2.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssgear import registry
from ssgear.config import arguments, cli, presets
from ssgear.config.arguments import Given
from ssgear.config.options import options_of
from ssgear.config.schema import DataConfig
from ssgear.errors import (
    OUT_OF_SPACE,
    ConfigError,
    DataError,
    SsgearError,
    StorageError,
    require,
)
from ssgear.views._plan import Facts, Job, piece_of

if TYPE_CHECKING:
    from ssgear.data.originals import Originals
    from ssgear.storage.view_store import StoreInfo

USAGE = "python -m ssgear.generate"


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
    workers: int | None = None
    """Processes of this machine that make shards, by default one for each GPU, or one."""
    shard: str | None = None
    """i/n: make the i-th of n parts (1/8 to 8/8) of the store, for n commands on any machines."""
    verify: bool = False
    """Read all of --output (or --verify STORE) instead, and say what is damaged."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images to make views of, of the training split; by default those of the run."""

    def __post_init__(self) -> None:
        """Refuse numbers below one and seeds that no generator takes."""
        for option in ("count", "views", "batch_size", "shard_size", "workers"):
            value = getattr(self, option)
            flag = option.replace("_", "-")
            require(value is None or value >= 1, f"--{flag}", value, "use at least 1")
        require(0 <= self.seed < 2**32, "--seed", self.seed, "use 0 to 2^32 - 1")
        piece_of(self.shard)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        asked, own, named = parse(words or ["--help"])
        store = verify(asked) if asked.verify else generate(asked, own, named)
        print(store)
        return 0
    except SsgearError as error:
        print(f"ssgear: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        print("ssgear: interrupted; the same command finishes what is missing", file=sys.stderr)
        return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def parse(words: Sequence[str]) -> tuple[Generation, Any, tuple[str, ...]]:
    """Read the options: the command's, those of the generator that it names, and who names images.

    The last are the options that say which images views are to be made of, as they were typed.
    """
    given, help_wanted = arguments.read(words)
    given = [part for each in given for part in _with_output(each)]
    preset, name = _last(given, "preset"), _last(given, "generator")
    if preset is not None:
        given = [*presets.given_by_views(preset, name), *given]
    name = _last(given, "generator") or Generation.generator
    kind = registry.load("views", name, "--generator")
    options = {**options_of(Generation), **options_of(kind.Config)}
    given = arguments.check(given, options, listing="--help")
    cli.check_images(given)
    run = _last(given, "run")
    keys = [each.key for each in given]
    data = DataConfig() if run is None else cli.images_of(Path(run), keys)
    words = ["--help"] if help_wanted else arguments.words_for_tyro(given)
    parsed = _tyro(words, kind.Config, data)
    named = tuple(e.flag for e in given if e.key.startswith("data.") or e.key == "views")
    return _part(Generation, parsed), _part(kind.Config, parsed), named


def _with_output(each: Given) -> list[Given]:
    """Take --verify STORE for --verify --output STORE."""
    if each.key != "verify" or [word.lower() for word in each.words] in ([], ["true"], ["false"]):
        return [each]
    output = dataclasses.replace(each, flag="--output", key="output")
    return [dataclasses.replace(each, words=()), output]


def _last(given: Sequence[Given], key: str) -> str | None:
    """Return the value of an option, where it was given with one."""
    words = [each.words[0] for each in given if each.key == key and len(each.words) == 1]
    return words[-1] if words else None


def _tyro(words: Sequence[str], own: type[Any], data: DataConfig) -> Any:
    command = dataclasses.make_dataclass("Command", [], bases=(Generation, own), frozen=True)
    about = "Draw images from a generator into a store, to be trained on."
    default = command(data=data)
    return arguments.parse(command, words, prog=USAGE, description=about, default=default)


def _part(kind: type[Any], parsed: Any) -> Any:
    fields = dataclasses.fields(kind)
    return kind(**{field.name: getattr(parsed, field.name) for field in fields})


def generate(asked: Generation, own: Any, named: Sequence[str] = ()) -> Path:
    """Make the images that are missing and return the store.

    `named` are the options that say which images views are to be made of.
    """
    from ssgear.storage.store_writer import create
    from ssgear.views._finish import finish
    from ssgear.views._local import local
    from ssgear.views._signals import Signals

    root = _output(asked)
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        stack.enter_context(_full_disk())
        executor = local(asked.generator, own, asked.device, asked.workers)
        stack.enter_context(closing(executor))
        facts = executor.facts()
        originals = _originals(asked, facts, named, getattr(own, "run", None))
        info = _info(asked, facts, originals)
        there = create(root, info).info
        if info.count < there.count:
            print(
                f"ssgear: {root} is to hold {there.count} images, not {info.count}", file=sys.stderr
            )
        job = Job(generator=asked.generator, config=own, root=root, info=there, originals=originals)
        finish(job, piece_of(asked.shard), executor, signals, facts.notes)
    return root


def _info(asked: Generation, facts: Facts, originals: Originals | None) -> StoreInfo:
    """Return what the store is to be."""
    from ssgear.storage.view_store import StoreInfo

    settings = {
        "generator": registry.canonical(asked.generator),
        "seed": asked.seed,
        "batch_size": asked.batch_size or facts.batch_size,
        **facts.settings,
        **({} if originals is None else originals.settings),
    }
    return StoreInfo(
        count=(asked.count or 0) if originals is None else len(originals) * (asked.views or 1),
        shard_size=asked.shard_size,
        encoding=asked.format,
        size=facts.size,
        settings=settings,
    )


def verify(asked: Generation) -> Path:
    """Read the whole store and return it; what is damaged is printed, and an error."""
    from ssgear.storage.store_check import verify as verified

    root = _output(asked)
    problems = verified(root, option="--output")
    for problem in problems:
        print(f"ssgear: {problem}", file=sys.stderr)
    if problems:
        raise DataError(
            f"--output: {len(problems)} damaged, see above; remove these shards (NNNNNN.tar), and "
            f"the command that made the store makes them again: {USAGE} ... --output {root}"
        )
    return root


def _output(asked: Generation) -> Path:
    if asked.output is None:
        raise ConfigError("--output: name the directory of the store")
    return asked.output


def _originals(
    asked: Generation, facts: Facts, named: Sequence[str], run: Path | None
) -> Originals | None:
    """Open the images to make views of; None for a generator that draws from noise."""
    from ssgear.data.originals import open_originals

    if facts.image_size is None:
        if named:
            raise ConfigError(
                f"{named[0]}: this generator draws from noise and makes no views of images; leave "
                "it away, and say by --count how many images the store is to hold"
            )
        if asked.count is None:
            raise ConfigError("--count: say how many images the store is to hold")
        return None
    if asked.count is not None:
        raise ConfigError(
            "--count: this generator makes views of images, as many as there are; say by --views "
            "how many of each"
        )
    if run is not None and not named and not cli.has_settings(run):
        raise ConfigError(
            f"--data.path: {run} does not say which images it was trained on; name those to make "
            "views of"
        )
    return open_originals(asked.data, facts.image_size)


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise StorageError(
            f"--output: cannot be written: {error.strerror}; make room, then run the same command "
            "again: it finishes what is missing"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
