"""`python -m ssgear.evaluate RUN`: a checkpoint -> figures -> `RUN/evaluation-SOURCE.json`.

RUN is a run's directory or its `encoder.safetensors`. The images are those that the run was trained
on unless `--data.*` names others. `python -m ssgear.evaluate --store STORE` measures a view store
beside the images that it was made of (evaluation/generated/store_views.py) instead, where they lay
then or where `--data.*` says. The last line on standard output is the path of the figures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from ssgear import distributed, registry
from ssgear.command import command
from ssgear.config import arguments, help, images, runs
from ssgear.config.layers import construct
from ssgear.config.options import options_of
from ssgear.config.schema import DataConfig
from ssgear.errors import GPU_MEMORY, ConfigError, refusing_lack

if TYPE_CHECKING:
    from ssgear.data.sources.source import Source
    from ssgear.methods.base import Method

USAGE = "python -m ssgear.evaluate RUN"
STORE_USAGE = "python -m ssgear.evaluate --store STORE"
STORE_PROTOCOL = ("prdc",)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure, and on which images."""

    protocol: tuple[str, ...] = ("linear", "knn")
    """linear, linear-sgd, knn, health; blocks (linear at each block), quadrants (at all together),
    folds (on a set's predefined ones); of a run's generator fid (as many synthetic images as test
    images, against these) and fid-train (training images); what a method brings (shifts: kNN of
    moved images). Of a store fid, frechet (in the space of --encoder), prdc (precision, recall,
    density, coverage). One or several."""
    features: str = "last"
    """last: the encoder's output; or the name of a block (layer3, block2), pooled in quadrants."""
    inception: Path | None = None
    """For fid, and prdc: file of Inception-v3's weights as torch-fidelity publishes them."""
    store: Path | None = None
    """View store to measure beside its images, in place of a run."""
    encoder: Path | None = None
    """For frechet and prdc of a store: the run or encoder.safetensors whose features count."""
    output: Path | None = None
    """File of the figures; by default evaluation-SOURCE.json in the run's directory, with the
    name of --data.path, the number of images and the protocols where they were given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is there."""
    max_images: int | None = None
    """Images of each split, evenly spread; by default all."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images; by default those of the run, or of the store."""

    def __post_init__(self) -> None:
        """Refuse a number of images that can be no number of rows to compare."""
        if self.max_images is not None and self.max_images < 2:
            raise ConfigError(f"--max-images: {self.max_images} is not possible; use at least 2")
        for name in ("blocks", "quadrants", "folds"):
            if self.features != "last" and name in self.protocol:
                raise ConfigError(
                    f"--features: --protocol {name} reads every block; leave --features away"
                )
        if self.max_images is not None and "folds" in self.protocol:
            raise ConfigError("--max-images: --protocol folds needs every image; leave it away")
        wanted = {"fid", "fid-train"} & set(self.protocol)
        if self.inception is not None and not wanted | {"prdc"} & set(self.protocol):
            raise ConfigError("--inception: is for --protocol fid and fid-train; add one of them")
        if self.encoder is not None and self.store is None:
            raise ConfigError("--encoder: is for --store; the run or file to measure comes first")
        if self.inception is None and wanted:
            raise ConfigError(
                "--inception: FID needs Inception-v3's weights; name the file that torch-fidelity "
                "publishes, weights-inception-2015-12-05-6726825d.pth"
            )


@command()
def main(words: list[str]) -> int:
    """Run the command and return its exit status."""
    with refusing_lack(_too_many):
        if not words or words[0] in ("-h", "--help"):
            _show_help(Evaluation())
        if not words[0].startswith("-"):
            run = Path(words[0]).expanduser()
            return evaluate(run, parse(run, words[1:]))
        asked = parse_store(words)
        if asked is None:
            raise ConfigError(f"{words[0]}: the run comes first: {USAGE} [OPTIONS]")
        return evaluate_store(asked)


def _too_many(lacking: str) -> ConfigError:
    less = "use fewer images by --max-images"
    less += ", or --device cpu" if lacking == GPU_MEMORY else ""
    return ConfigError(f"not enough {lacking} for these images; {less}")


def parse(run: Path, words: Sequence[str]) -> Evaluation:
    """Read the options; images that the command line does not name are the run's own."""
    typed, help_wanted = arguments.read(words)
    given = arguments.check(typed, options_of(Evaluation), listing="--help")
    images.check(given, also=("size",))
    values = arguments.values_of(given)
    default = Evaluation(data=images.of_run(run, values))
    if help_wanted:
        _show_help(default)
    return construct(Evaluation, values, base=default)


def parse_store(words: Sequence[str]) -> Evaluation | None:
    """Read the options of a store's evaluation; None where no store is named."""
    typed, help_wanted = arguments.read(words)
    if "store" not in {option.key for option in typed}:
        return None
    given = arguments.check(typed, options_of(Evaluation), listing="--help")
    if help_wanted:
        _show_help(Evaluation(protocol=STORE_PROTOCOL))
    values = arguments.values_of(given)
    if values["store"] is None:
        return None
    moved = "data.path" in values
    others = "data.source" in values
    data = DataConfig() if others else _images_of_store(Path(str(values["store"])), moved=moved)
    default = Evaluation(protocol=STORE_PROTOCOL, data=data)
    return construct(Evaluation, values, base=default)


def _images_of_store(store: Path, *, moved: bool) -> DataConfig:
    """Return the images that a store says it was made of, or the embedded ones.

    Of images that were `moved` all but the path stands: which share is held out, say.
    """
    from ssgear.storage.view_store import read_info

    where = f"--store: {store}"
    fields = read_info(store.expanduser(), where).images
    if fields is None or (moved and "path" not in fields):
        return DataConfig()
    left = {name: value for name, value in fields.items() if not (moved and name == "path")}
    return images.from_fields(left, where)


def _show_help(default: Evaluation) -> NoReturn:
    about = "Measure an encoder on the images of its run, or on any others."
    help.show_all(f"{USAGE} [OPTIONS]", about, [default])
    raise SystemExit(0)


def evaluate(run: Path, asked: Evaluation) -> int:
    """Load the encoder, run the protocols, print and write the figures."""
    from ssgear.evaluation import protocols
    from ssgear.evaluation.generated.inception import load_inception
    from ssgear.evaluation.images import EvalImages
    from ssgear.models.encoders import load_encoder
    from ssgear.models.encoders.blocks import PooledBlocks
    from ssgear.storage.atomic import write_json

    if asked.store is not None:
        raise ConfigError(f"--store: measures no run; say {STORE_USAGE} [OPTIONS], without {run}")
    if {"frechet", "prdc"} & set(asked.protocol):
        raise ConfigError(f"--protocol: frechet and prdc are of a store: {STORE_USAGE} [OPTIONS]")
    method = method_of(run)
    own = () if method is None else method.card.protocols
    chosen = [protocols.find(name, own) for name in asked.protocol]
    path = figures_path(asked)
    inception = None if asked.inception is None else load_inception(asked.inception)
    device = distributed.choose_device(asked.device, "--device")
    encoder = load_encoder(run).to(device)
    read = encoder if asked.features == "last" else PooledBlocks(encoder, [asked.features])
    images = EvalImages(
        data=asked.data,
        max_images=asked.max_images,
        select=selection(run, method, asked),
        has_folds="folds" in asked.protocol,
    )
    # networks of convolutions take larger images than they were trained on
    data, facts = images.load(asked.data.size or encoder.size)
    name = str(facts["source"])
    subject = protocols.Subject(
        read,
        data,
        device,
        run=run,
        inception=inception,
        name=name,
        load=lambda size: images.load(size)[0],
        load_trained=images.trained(name) if "fid-train" in asked.protocol else None,
    )
    for protocol in chosen:
        protocol.check(subject)
    figures = {key: value for each in chosen for key, value in each.measure(subject).items()}
    title = f"{name}: {facts['num_train']} training, {facts['num_test']} test images"
    _print(title, figures, subject.stated)
    path = path or figures_name(run, asked, name)
    if path.exists():
        print(f"ssgear: {path} is replaced", file=sys.stderr)
    asked_for = {
        "protocols": list(asked.protocol),
        "max_images": asked.max_images,
        "features": asked.features,
    }
    write_json(path, {**figures, **subject.stated, **facts, **asked_for, "path": asked.data.path})
    print(path)
    return 0


def evaluate_store(asked: Evaluation) -> int:
    """Measure a store beside its images, print and write the figures."""
    from ssgear.data.sources import open_source, scan
    from ssgear.evaluation.generated import store_views
    from ssgear.evaluation.generated.inception import load_inception
    from ssgear.models.encoders import load_encoder
    from ssgear.storage.atomic import write_json

    assert asked.store is not None
    store_views.check(asked.protocol, inception=asked.inception, encoder=asked.encoder)
    path = figures_path(asked)
    device = distributed.choose_device(asked.device, "--device")
    images, _ = scan(open_source(asked.data, "train"), asked.data)
    compared = store_views.open_compared(
        asked.store.expanduser(), images, max_images=asked.max_images, workers=asked.data.workers
    )
    figures, stated = store_views.measure(
        compared,
        asked.protocol,
        device=device,
        inception=None if asked.inception is None else load_inception(asked.inception),
        encoder=None if asked.encoder is None else load_encoder(asked.encoder),
    )
    facts: dict[str, str | int] = {"source": images.name, "num_images": len(compared.images)}
    _print(f"{asked.store.name}: {facts['num_images']} images of {images.name}", figures, stated)
    path = path or figures_name(asked.store.expanduser(), asked, images.name)
    asked_for = {"protocols": list(asked.protocol), "max_images": asked.max_images}
    write_json(path, {**figures, **stated, **facts, **asked_for, "path": asked.data.path})
    print(path)
    return 0


def figures_path(asked: Evaluation) -> Path | None:
    """Return --output where it was given, once it is sure that it can be written."""
    if asked.output is None:
        return None
    folder = asked.output.parent
    if asked.output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        wrong = "is a directory" if asked.output.is_dir() else f"{folder} cannot be written"
        raise ConfigError(f"--output: {asked.output}: {wrong}; name a file in a directory of yours")
    return asked.output


def figures_name(run: Path, asked: Evaluation, source: str) -> Path:
    """Return a name that says which images and figures: others never replace the run's own."""
    usual = Evaluation().protocol if asked.store is None else STORE_PROTOCOL
    parts = ["evaluation", source]
    if asked.data.path is not None and asked.data.path != images.of_run(run).path:
        parts.append(asked.data.path.resolve().stem)
    if asked.max_images is not None:
        parts.append(f"{asked.max_images}-images")
    if asked.features != "last":
        parts.append(asked.features)
    if set(asked.protocol) != set(usual):
        parts += asked.protocol
    return (run if run.is_dir() else run.parent) / f"{'-'.join(parts)}.json"


def method_of(run: Path) -> type[Method] | None:
    """Import the method of a run; None for an encoder that is not in its run's directory."""
    if not runs.has_settings(run):
        return None
    method: type[Method] = registry.load("methods", runs.settings_of(run).method_name)
    return method


def selection(
    run: Path, method: type[Method] | None, asked: Evaluation
) -> Callable[[Source], Source]:
    """Return what takes those of a run's own images that its method is about; others stay whole."""
    if method is not None:
        config = runs.settings_of(run)
        pretext = method.build_pretext(config.method)
        its_own = (asked.data.source, asked.data.path) == (config.data.source, config.data.path)
        if pretext is not None and its_own:
            return pretext.select
    return lambda source: source


def _print(title: str, figures: Mapping[str, float], stated: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        share = not any(part in name for part in ("rank", "fid", "frechet", "density"))
        table.add_row(name, f"{100 * value:.2f} %" if share else f"{value:.2f}")
    console = Console()
    console.print(table)
    for name, text in stated.items():
        console.print(f"{name}: {text}", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
