"""`python -m ssgear.generate`: a generator -> images -> a view store (storage/view_store.py).

A store that is there is finished, or enlarged by a larger --count or --views: image i is a function
of the seed and i alone, view k of a real image of the seed, the image and k. The last line on
standard output is the path of the store; a user's mistake is one line on standard error and exit
status 2.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssgear import distributed, registry
from ssgear.config import arguments, cli
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

if TYPE_CHECKING:
    from ssgear.data.originals import Originals
    from ssgear.storage.store_writer import Sample
    from ssgear.storage.view_store import StoreInfo
    from ssgear.views.base import Generator

USAGE = "python -m ssgear.generate"
_SHOWN = 3
"""Damaged places that an error names."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate, how much of it, and where it goes."""

    generator: str = "gan"
    """View generator: gan."""
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
    batch_size: int = 100
    """Images made at a time. It may change an image's last bits, so a store keeps to one."""
    shard_size: int = 1000
    """Images of a tar file."""
    format: Literal["webp", "jpg"] = "webp"
    """webp loses nothing and suits small images, jpg (quality 95) is smaller."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is there."""
    verify: bool = False
    """Read every image of --output instead, and say which are damaged."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images to make views of, of the training split; by default those of the run."""

    def __post_init__(self) -> None:
        """Refuse numbers below one and seeds that no generator takes."""
        for option in ("count", "views", "batch_size", "shard_size"):
            value = getattr(self, option)
            flag = option.replace("_", "-")
            require(value is None or value >= 1, f"--{flag}", value, "use at least 1")
        require(0 <= self.seed < 2**32, "--seed", self.seed, "use 0 to 2^32 - 1")


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
    except KeyboardInterrupt:
        print("ssgear: interrupted; the same command finishes what is missing", file=sys.stderr)
        return 130


def parse(words: Sequence[str]) -> tuple[Generation, Any, tuple[str, ...]]:
    """Read the options: the command's, those of the generator that it names, and who names images.

    The last are the options that say which images views are to be made of, as they were typed.
    """
    given, help_wanted = arguments.read(words)
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
    from ssgear.data.progress import progress
    from ssgear.storage.store_writer import create
    from ssgear.storage.view_store import StoreInfo

    root = _output(asked)
    device = distributed.choose_device(asked.device, "--device")
    kind = registry.load("views", asked.generator, "--generator")
    generator: Generator = kind(own, device)
    originals = _originals(asked, generator, named, getattr(own, "run", None))
    count = (asked.count or 0) if originals is None else len(originals) * (asked.views or 1)
    settings = {
        "generator": registry.canonical(asked.generator),
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        **generator.settings,
        **({} if originals is None else originals.settings),
    }
    info = StoreInfo(
        count=count,
        shard_size=asked.shard_size,
        encoding=asked.format,
        size=generator.size,
        settings=settings,
    )
    with _full_disk(), create(root, info) as writer:
        missing = writer.missing()
        total = sum(len(writer.info.items_of(shard)) for shard in missing)
        _tell(root, writer.info, count, total)
        with progress("Generating" if total else "", total) as advance:
            for shard in missing:
                items = writer.info.items_of(shard)
                made = samples(generator, settings, items, advance, originals)
                writer.write_shard(shard, made)
    return root


def samples(
    generator: Generator,
    settings: dict[str, Any],
    items: range,
    advance: Callable[[int], None],
    originals: Originals | None = None,
) -> Iterator[Sample]:
    """Make some items, in blocks that are cut at the same numbers whatever is asked for."""
    from ssgear.storage.store_writer import Sample
    from ssgear.views.base import item_seed

    size = settings["batch_size"]
    for first in range(items.start // size * size, items.stop, size):
        block = range(first, first + size)
        names = [(f"{n:09d}", 0) if originals is None else originals.name_of(n) for n in block]
        ids = [each for each, _ in names]
        seeds = [item_seed(settings["seed"], *name) for name in names]
        images = None if originals is None else originals.load(block)
        views = generator.generate(images, ids, seeds)
        wanted = [row for row, number in enumerate(block) if number in items]
        for row in wanted:
            metadata = {
                "generator": settings["generator"],
                "prompt": None,
                "seed": seeds[row],
                **({} if originals is None else originals.about(block[row])),
                **views.metadata[row],
            }
            pixels = views.images[row].permute(1, 2, 0).contiguous().numpy()
            yield Sample(id=ids[row], k=names[row][1], pixels=pixels, metadata=metadata)
        advance(len(wanted))


def verify(asked: Generation) -> Path:
    """Read the whole store and return it; damage is an error."""
    from ssgear.storage import view_store

    root = _output(asked)
    problems = view_store.verify(root, option="--output")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"--output: {len(problems)} damaged: {'; '.join(problems[:_SHOWN])}{more}; remove "
            "these shards, and the command that made the store makes them again"
        )
    return root


def _output(asked: Generation) -> Path:
    if asked.output is None:
        raise ConfigError("--output: name the directory of the store")
    return asked.output


def _originals(
    asked: Generation, generator: Generator, named: Sequence[str], run: Path | None
) -> Originals | None:
    """Open the images to make views of; None for a generator that draws from noise."""
    from ssgear.data.originals import open_originals

    if generator.image_size is None:
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
    return open_originals(asked.data, generator.image_size)


def _tell(root: Path, info: StoreInfo, count: int, total: int) -> None:
    there = info.count - total
    if count < info.count:
        print(f"ssgear: {root} is to hold {info.count} images, not {count}", file=sys.stderr)
    if there and total:
        print(f"ssgear: {there} of {info.count} images are there", file=sys.stderr)
    elif not total:
        print(f"ssgear: all {info.count} images are there", file=sys.stderr)


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
