"""What `python -m ssgear.evaluate` can be asked for. No torch is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ssgear.config import arguments, images
from ssgear.config.layers import construct
from ssgear.config.options import options_of
from ssgear.config.schema import DataConfig
from ssgear.errors import ConfigError

TIMM = "timm:"
"""How the name of a network with published weights begins."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_PAGE = "https://github.com/toshas/torch-fidelity/releases"
OF_GENERATORS = ("fid", "fid-train", "kid", "prdc")
"""Protocols that look at images through Inception-v3."""
OF_STORES = ("prdc",)
"""What is measured of a store unless something else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to measure, and on which images."""

    protocol: tuple[str, ...] = ("linear", "knn")
    """With labels: linear, linear-sgd, mlp, knn, finetune, transfer, map (retrieval); blocks,
    quadrants, folds (probes at every block). Without: health, invariance, attention, patch-pca, cka
    and opd (--against). Of a run's generator: fid, fid-train, kid, prdc. Of a store: fid, kid,
    frechet, prdc. And what a method brings (shifts)."""
    labels: tuple[float, ...] = (1.0,)
    """Shares of the training labels to learn from, in (0, 1]: 0.01 0.1 1. Balanced over classes."""
    label_lists: Path | None = None
    """Folder with 1percent.txt and 10percent.txt, the published lists of ImageNet's images."""
    seeds: int = 1
    """How many times what is drawn (subsets, initial weights, order) is drawn anew."""
    against: str | None = None
    """The other encoder for cka and opd: a run, encoder.safetensors or timm:NAME."""
    transfer: tuple[str, ...] = ()
    """Other images for --protocol transfer: mini, digits, cifar100:PATH, FOLDER."""
    features: str = "last"
    """last: the encoder's output; or the name of a block (layer3, block2), pooled in quadrants."""
    inception: Path | None = None
    """For fid, kid and prdc: file of Inception-v3's weights as torch-fidelity publishes them."""
    store: Path | None = None
    """View store to measure beside its images, in place of a run."""
    encoder: Path | None = None
    """For frechet, kid and prdc of a store: the run or encoder.safetensors whose features count."""
    output: Path | None = None
    """File of the figures; by default evaluation-SOURCE.json in the run's directory, with the
    name of --data.path, the number of images and the protocols where they were given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is there."""
    max_images: int | None = None
    """Images of each split, evenly spread; by default all."""
    cache: bool = True
    """Keep features and figures in the run's folder features/, for the next evaluation."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images; by default those of the run, or of the store."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be, and options of protocols that are not asked for."""
        if self.max_images is not None and self.max_images < 2:
            raise ConfigError(f"--max-images: must be at least 2 (got {self.max_images})")
        if self.seeds < 1:
            raise ConfigError(f"--seeds: must be at least 1 (got {self.seeds})")
        for share in self.labels:
            if not 0 < share <= 1:
                raise ConfigError(f"--labels: shares must be in (0, 1] (got {share:g})")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"--labels: give different shares (got {_words(self.labels)})")
        for name in ("blocks", "quadrants", "folds"):
            if self.features != "last" and name in self.protocol:
                raise ConfigError(
                    f"--features: --protocol {name} reads every block; leave --features away"
                )
        if self.max_images is not None and "folds" in self.protocol:
            raise ConfigError("--max-images: --protocol folds needs every image; leave it away")
        self._check_partners()

    def _check_partners(self) -> None:
        """Refuse an option whose protocol is not asked for, and a protocol without its option."""
        protocols = set(self.protocol)
        wanted = protocols & set(OF_GENERATORS)
        if self.inception is not None and not wanted:
            raise ConfigError(
                "--inception: is for --protocol fid and fid-train, kid and prdc; add one of them"
            )
        if self.encoder is not None and self.store is None:
            raise ConfigError("--encoder: is for --store; the run or file to measure comes first")
        if self.inception is None and protocols & {"fid", "fid-train"}:
            raise lack_of_inception("FID")
        if self.transfer and "transfer" not in protocols:
            raise ConfigError("--transfer: only applies to --protocol transfer; add it")
        if self.against is not None and not protocols & {"cka", "opd"}:
            raise ConfigError("--against: only applies to --protocol cka and opd; add one of them")
        transfer_sets(self.transfer)
        if self.label_lists is not None and self.labels == (1.0,):
            raise ConfigError("--label-lists: only applies to --labels 0.01 and 0.1; add them")


def lack_of_inception(figure: str) -> ConfigError:
    """Return the refusal of a figure without the weights that it is defined on."""
    return ConfigError(
        f"--inception: {figure} needs Inception-v3's weights; name the file that torch-fidelity "
        f"publishes, {INCEPTION_FILE} (fetch it from {INCEPTION_PAGE}; it may lie anywhere)"
    )


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


def parse(run: str, words: Sequence[str]) -> tuple[Evaluation, bool]:
    """Return the options, and whether help was asked for.

    Images that the command line does not name are the run's own.
    """
    typed, help_wanted = arguments.read(words)
    given = arguments.check(typed, options_of(Evaluation), listing="--help")
    images.check(given, also=("size",))
    values = arguments.values_of(given)
    own = DataConfig() if run.startswith(TIMM) else images.of_run(Path(run), values)
    default = Evaluation(data=own)
    if help_wanted:
        return default, True
    return construct(Evaluation, values, base=default), False


def parse_store(words: Sequence[str]) -> tuple[Evaluation, bool] | None:
    """Return the options of a store's evaluation; None where no store is named."""
    typed, help_wanted = arguments.read(words)
    if "store" not in {option.key for option in typed}:
        return None
    given = arguments.check(typed, options_of(Evaluation), listing="--help")
    if help_wanted:
        return Evaluation(protocol=OF_STORES), True
    values = arguments.values_of(given)
    if values["store"] is None:
        return None
    moved = "data.path" in values
    others = "data.source" in values
    data = DataConfig() if others else _images_of_store(Path(str(values["store"])), moved=moved)
    default = Evaluation(protocol=OF_STORES, data=data)
    return construct(Evaluation, values, base=default), False


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


def transfer_sets(texts: Sequence[str]) -> dict[str, DataConfig]:
    """Return other images by a short name: `NAME`, `NAME:PATH` or a path."""
    sets: dict[str, DataConfig] = {}
    for text in texts:
        source, colon, path = text.partition(":")
        is_missing = os.sep in source or (os.sep in text and not colon)
        if is_missing and not Path(text).expanduser().exists():
            raise ConfigError(f"--transfer: {text}: no such folder or file")
        if colon and path and not Path(text).exists():
            data = DataConfig(source=source, path=Path(path))
        elif Path(text).exists():
            source, data = Path(text).resolve().stem, DataConfig(path=Path(text))
        else:
            data = DataConfig(source=source)
        if source in sets:
            raise ConfigError(f"--transfer: {source} stands twice; give different images")
        sets[source] = data
    return sets
