"""An encoder under evaluation: its features, computed once, and what protocols are asked for.

subject = Subject(encoder, data, device=device, store=FeatureStore(folder=run / "features"))
subject.train                     # features [N, F] of the training images: a tensor or a file
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssgear import __version__
from ssgear.errors import ArgumentError
from ssgear.evaluation.features import extract
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.features.store import FeatureStore, digest_of, weights_digest
from ssgear.evaluation.generated.inception import Inception
from ssgear.evaluation.images import EvalData, Split
from ssgear.models.gan.generators import SavedGenerator, read_generator

VERSION = "2"
"""Changes when a protocol comes to compute something else between two versions of ssgear."""
OF_GENERATORS = ("fid", "fid-train", "kid", "prdc")
"""Protocols that measure a generator."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How protocols are run."""

    labels: tuple[float, ...] = (1.0,)
    """Shares of the training labels that probes learn from."""
    label_lists: Path | None = None
    """Folder of published lists of training images, 1percent.txt and 10percent.txt."""
    seeds: int = 1
    """How many times what is drawn (subsets, initial weights, order) is drawn anew."""

    def text(self) -> str:
        """Return the options as a text that differs where they do."""
        return repr((self.labels, self.seeds))


@dataclass
class Subject:
    """An encoder under evaluation; its features are computed once, when first asked for."""

    encoder: nn.Module
    data: EvalData
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: FeatureStore = field(default_factory=FeatureStore)
    """Where features are kept."""
    options: Options = field(default_factory=Options)
    title: str = "this encoder"
    """Name of the encoder, for people."""
    run: Path | None = None
    """The run, for protocols that need more of it than the encoder."""
    inception: Inception | None = None
    """Inception-v3 for FID."""
    name: str = ""
    """Name of the images."""
    load: Callable[[int], EvalData] | None = None
    """The same images as squares of another side."""
    load_trained: Callable[[int], Split] | None = None
    """The images that the run was trained on as squares of a side, where `data` has others, such as
    labelled ones."""
    against: Subject | None = None
    """Another encoder on the same images, for protocols that compare two."""
    others: Mapping[str, Callable[[], EvalData]] = field(default_factory=dict)
    """Other sets of images by name, for transfer."""

    @cached_property
    def train(self) -> Rows:
        """Features [N, F] of the training images."""
        return self.features(self.encoder, self.data.train_images, "training images")

    @cached_property
    def test(self) -> Rows:
        """Features [N, F] of the test images."""
        return self.features(self.encoder, self.data.test_images, "test images")

    def features(self, network: nn.Module, images: Rows, what: str, *, batch_size: int = 0) -> Rows:
        """Return features [N, F] of some images by a network on this device."""
        more = {"batch_size": batch_size} if batch_size else {}
        label = f"Encoding {what}"
        return self.store.features(network, images, device=self.device, label=label, **more)

    def on(self, data: EvalData, name: str) -> Subject:
        """Return the same encoder on other images."""
        return Subject(
            self.encoder, data, self.device, self.store, self.options, self.title, name=name
        )

    @cached_property
    def digest(self) -> str:
        """Fingerprint of the weights."""
        return weights_digest(self.encoder)

    def fingerprint(self, protocol: str) -> str:
        """Return what an outcome of a protocol depends on; empty where it cannot be relied on."""
        splits = (self.data.train_images, self.data.test_images)
        states = [str(getattr(images, "state", "")) for images in splits]
        if not all(states) or self.load_trained is not None or self.others:
            return ""
        if self.options.label_lists is not None:  # a file that may change
            return ""
        labels = [
            "" if labels is None else digest_of(labels.numpy().tobytes().hex())
            for labels in (self.data.train_labels, self.data.test_labels)
        ]
        names = "\0".join(self.data.classes or ())
        folds = repr([fold.tolist() for fold in self.data.folds])
        against = "" if self.against is None else self.against.digest
        judged = ""
        if protocol in OF_GENERATORS and self.inception is not None:
            judged = self.inception.digest + weights_digest(self.generator.generator)
        parts = (self.digest, *states, *labels, names, folds, against, judged, self.options.text())
        return digest_of(__version__, VERSION, protocol, self.device.type, *parts)

    @cached_property
    def generator(self) -> SavedGenerator:
        """The generator of the run, or an error that says that there is none."""
        if self.inception is None or self.run is None:
            raise ArgumentError("fid: the subject has no run, or no Inception to measure it by")
        return read_generator(self.folder)

    @property
    def folder(self) -> Path:
        """The run's directory."""
        assert self.run is not None
        return self.run if self.run.is_dir() else self.run.parent

    def split(self, name: Literal["test", "training"], side: int) -> Split:
        """Return images and labels of one split as squares; training: what the run learned from."""
        if name == "training" and self.load_trained is not None:
            return self.load_trained(side)
        split = self.data.split(name)
        if side == split[0].shape[-1] or self.load is None:
            return split
        return self.load(side).split(name)

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Labels of both splits, or an error that says that they are needed."""
        return self.data.labels

    def encode(self, images: Tensor) -> Tensor:
        """Return features [N, F] of any images uint8 [N, 3, H, W]."""
        return extract(self.encoder, images, device=self.device)
