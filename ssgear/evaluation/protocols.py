"""What `evaluate --protocol` can ask for: one function per protocol, registered by name.

A protocol takes `EvalData` and an encoder with its features, and returns named figures. A function
with `@protocol("name")` in this room is listed by the command without further ado; what it needs
(`needs=labels_of`) is checked before the first of several protocols computes anything. Protocols
that a method brings with it stand on its card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssgear import registry
from ssgear.errors import ArgumentError, ConfigError, DataError, did_you_mean
from ssgear.evaluation.features import extract
from ssgear.evaluation.generated.inception import About, Inception
from ssgear.evaluation.generated.inception import fid as compute_fid
from ssgear.evaluation.health import effective_rank
from ssgear.evaluation.probes.knn import knn_accuracy
from ssgear.evaluation.probes.linear import linear_probe, linear_probe_sgd
from ssgear.methods.base import LabelledSplits, OwnProtocol
from ssgear.models.encoders import Normalized
from ssgear.models.encoders.blocks import PooledBlocks, block_names
from ssgear.models.gan.generators import SavedGenerator, read_generator
from ssgear.models.gan.instances import check_condition, synthetic_for

Figures = dict[str, float]
Split = tuple[Tensor, Tensor | None]
"""Images uint8 [N, 3, S, S], and labels [N] int64 where there are any."""
BLOCK_BATCH = 64
"""Images at a time where the maps of all blocks are kept."""
FID_SEED = 0
"""Of the noise that synthetic images are made of."""


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """Images of both splits, uint8 [N, 3, S, S], and labels [N] int64 where there are any."""

    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    classes: tuple[str, ...] | None = None
    folds: tuple[Tensor, ...] = ()
    """Rows of the training images that the set's authors tell to train on, where they do."""

    def split(self, name: Literal["test", "training"]) -> Split:
        """Return images and labels of one split."""
        if name == "test":
            return self.test_images, self.test_labels
        return self.train_images, self.train_labels

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels of at least two classes."""
        labels = self.train_labels
        if labels is None or self.test_labels is None or not len(labels):
            return False
        return int(labels.min()) != int(labels.max())


@dataclass
class Subject:
    """An encoder under evaluation; its features are computed once, when first asked for."""

    encoder: nn.Module
    data: EvalData
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
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
    stated: dict[str, str] = field(default_factory=dict)
    """What protocols say of their figures."""

    @cached_property
    def train(self) -> Tensor:
        """Features [N, F] of the training images."""
        return extract(self.encoder, self.data.train_images, device=self.device)

    @cached_property
    def test(self) -> Tensor:
        """Features [N, F] of the test images."""
        return extract(self.encoder, self.data.test_images, device=self.device)

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
        found = self.data.split(name)
        if side == found[0].shape[-1] or self.load is None:
            return found
        return self.load(side).split(name)

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Labels of both splits, or an error that says that they are needed."""
        train, test = self.data.train_labels, self.data.test_labels
        if train is None or test is None or not self.data.labelled:
            raise DataError(
                "this protocol needs labels of two classes or more, and these images have none; "
                "use class folders, --data.labels, or --protocol health"
            )
        return train, test

    @property
    def labelled_splits(self) -> LabelledSplits:
        """The images of both splits and their labels, for a method's own protocol."""
        train_labels, test_labels = self.labels
        return LabelledSplits(
            train_images=self.data.train_images,
            train_labels=train_labels,
            test_images=self.data.test_images,
            test_labels=test_labels,
            classes=self.data.classes,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return features [N, F] of any images uint8 [N, 3, H, W]."""
        return extract(self.encoder, images, device=self.device)


Function = Callable[[Subject], Figures]
Need = Callable[[Subject], object]
"""Raises what is missing; computes nothing."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to measure a subject."""

    measure: Function
    check: Need
    """Raises what `measure` would raise of a subject that lacks something."""


_PROTOCOLS: dict[str, Protocol] = {}


def protocol(name: str, *, needs: Need = lambda _: None) -> Callable[[Function], Function]:
    """Register a protocol under a name, with what finds out whether a subject has all of it."""

    def register(function: Function) -> Function:
        _PROTOCOLS[name] = Protocol(measure=function, check=needs)
        return function

    return register


def labels_of(subject: Subject) -> object:
    """Need labels of both splits."""
    return subject.labels


def blocks_of(subject: Subject) -> object:
    """Need an encoder that tells its blocks, and labels."""
    found = subject.encoder
    if isinstance(found, Normalized) and not block_names(found.encoder.network):
        raise ConfigError(
            "--protocol: blocks, quadrants and folds read every block, which "
            f"{found.config.name} does not tell; use linear or knn"
        )
    return subject.labels


def folds_of(subject: Subject) -> object:
    """Need predefined folds, and what every block needs."""
    if not subject.data.folds:
        raise DataError(
            "--protocol folds: is for the predefined folds of a published set, and "
            f"{subject.name or 'this set'} has none; use --protocol quadrants"
        )
    return blocks_of(subject)


def generator_of(subject: Subject) -> object:
    """Need a generator, and what it is conditioned on for test images."""
    found = subject.generator
    check_condition(found, subject.folder, subject.data.test_labels)
    return found


def trained_generator_of(subject: Subject) -> object:
    """Need a generator, and what it is conditioned on for the images that it learned from."""
    found = subject.generator
    labels = None if subject.load_trained else subject.data.train_labels
    check_condition(found, subject.folder, labels)
    return found


def find(name: str, own: Sequence[OwnProtocol] = ()) -> Protocol:
    """Return a protocol, one of `own` or of the methods' cards too, or say which there are."""
    if name in _PROTOCOLS:
        return _PROTOCOLS[name]
    brought = {found.name: found.measure for found in (*_of_methods(), *own)}
    if name not in brought:
        known = (*_PROTOCOLS, *brought)
        near = did_you_mean(name, known)
        raise ConfigError(f"--protocol: unknown protocol {name!r}{near}; known: {', '.join(known)}")
    measure = brought[name]
    return Protocol(
        measure=lambda subject: measure(subject.encode, subject.labelled_splits), check=labels_of
    )


def _of_methods() -> Iterator[OwnProtocol]:
    for name in registry.names("methods"):
        yield from registry.load("methods", name).card.protocols


@protocol("linear", needs=labels_of)
def linear(subject: Subject) -> Figures:
    """Logistic regression to convergence on frozen features."""
    train, test = subject.labels
    result = linear_probe(subject.train, train, subject.test, test)
    return {"linear_probe": result.top1, "linear_probe_top5": result.top5}


@protocol("linear-sgd", needs=labels_of)
def linear_sgd(subject: Subject) -> Figures:
    """A linear layer trained by SGD with random crops and flips."""
    train, test = subject.labels
    data = subject.data
    result = linear_probe_sgd(
        subject.encoder, data.train_images, train, data.test_images, test, device=subject.device
    )
    return {"linear_probe_sgd": result.top1, "linear_probe_sgd_top5": result.top5}


@protocol("knn", needs=labels_of)
def knn(subject: Subject) -> Figures:
    """Weighted vote of 200 and of 20 nearest neighbours."""
    train, test = subject.labels
    return {
        "knn": knn_accuracy(subject.train, train, subject.test, test, k=200),
        "knn_20": knn_accuracy(subject.train, train, subject.test, test, k=20),
    }


@protocol("blocks", needs=blocks_of)
def blocks(subject: Subject) -> Figures:
    """Logistic regression on the features after each block, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    encoder, train, test = _pooled(subject)
    figures: Figures = {}
    parts = [torch.split(each, list(encoder.widths), dim=1) for each in (train, test)]
    for name, train_part, test_part in zip(encoder.names, *parts, strict=True):
        result = linear_probe(train_part, train_labels, test_part, test_labels)
        figures[f"linear_probe_at_{name}"] = result.top1
    return figures


@protocol("quadrants", needs=blocks_of)
def quadrants(subject: Subject) -> Figures:
    """Logistic regression on the features of all blocks together, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    _, train, test = _pooled(subject)
    result = linear_probe(train, train_labels, test, test_labels)
    return {"linear_probe_quadrants": result.top1}


@protocol("folds", needs=folds_of)
def folds(subject: Subject) -> Figures:
    """Logistic regression on each of the set's predefined folds, pooled in quadrants."""
    folds_of(subject)
    train_labels, test_labels = subject.labels
    _, train, test = _pooled(subject)
    shares = torch.tensor(
        [
            linear_probe(train[rows], train_labels[rows], test, test_labels).top1
            for rows in subject.data.folds
        ],
        dtype=torch.float64,
    )
    return {
        "linear_probe_folds": float(shares.mean()),
        "linear_probe_folds_deviation": float(shares.std()),
    }


def _pooled(subject: Subject) -> tuple[PooledBlocks, Tensor, Tensor]:
    """Return features of all blocks, of training and of test images."""
    if not isinstance(subject.encoder, Normalized):
        raise ArgumentError("blocks: the subject's encoder is no Normalized encoder")
    encoder = PooledBlocks(subject.encoder)
    train, test = (
        extract(encoder, images, batch_size=BLOCK_BATCH, device=subject.device)
        for images in (subject.data.train_images, subject.data.test_images)
    )
    return encoder, train, test


@protocol("fid", needs=generator_of)
def fid(subject: Subject) -> Figures:
    """FID of as many synthetic images as there are test images against these."""
    return _fid(subject, "test")


@protocol("fid-train", needs=trained_generator_of)
def fid_train(subject: Subject) -> Figures:
    """FID of as many synthetic images as there are images that the run learned from, against these.

    Where a set has unlabelled training images those are it.
    """
    return _fid(subject, "training")


def _fid(subject: Subject, split: Literal["test", "training"]) -> Figures:
    found = subject.generator
    assert subject.inception is not None  # or there would be no generator
    images, labels = subject.split(split, subject.data.test_images.shape[-1])
    made = synthetic_for(
        found, subject.folder, images, labels, seed=FID_SEED, device=subject.device
    )
    if found.generator.resolution != images.shape[-1]:
        images, _ = subject.split(split, found.generator.resolution)
    about = About(
        real=f"{split} images of {subject.name}".strip(),
        condition=found.generator.config.condition.kind,
        seed=FID_SEED,
    )
    figures = compute_fid(subject.inception, made, images, about=about, device=subject.device)
    name = "fid" if split == "test" else "fid_train"
    subject.stated[f"{name}_protocol"] = figures["fid_protocol"]
    return {name: figures["fid"]}


@protocol("health")
def health(subject: Subject) -> Figures:
    """Effective rank of the test features; no labels needed."""
    features = subject.test
    return {"effective_rank": effective_rank(features - features.mean(0))}
