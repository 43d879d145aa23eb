"""What `evaluate --protocol` can ask for: one function per protocol, registered by name.

A protocol takes `EvalData` and an encoder with its features, and returns named figures. A function
with `@protocol("name")` in this room is listed by the command without further ado.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError, ConfigError, DataError, did_you_mean
from ssgear.evaluation.features import extract
from ssgear.evaluation.health import effective_rank
from ssgear.evaluation.inception import About, Inception
from ssgear.evaluation.inception import fid as compute_fid
from ssgear.evaluation.knn import knn_accuracy
from ssgear.evaluation.linear import linear_probe, linear_probe_sgd
from ssgear.evaluation.shifts import shifted_features, vote_accuracy
from ssgear.models.blocks import PooledBlocks
from ssgear.models.encoders import Normalized
from ssgear.models.generators import read_generator
from ssgear.models.instances import synthetic_for

Figures = dict[str, float]
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

    def split(self, name: Literal["test", "training"]) -> tuple[Tensor, Tensor | None]:
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


Protocol = Callable[[Subject], Figures]
_PROTOCOLS: dict[str, Protocol] = {}


def protocol(name: str) -> Callable[[Protocol], Protocol]:
    """Register a protocol under a name."""

    def register(function: Protocol) -> Protocol:
        _PROTOCOLS[name] = function
        return function

    return register


def names() -> tuple[str, ...]:
    """Return the names of all protocols."""
    return tuple(_PROTOCOLS)


def find(name: str) -> Protocol:
    """Return a protocol, or say which there are."""
    if name not in _PROTOCOLS:
        known = ", ".join(_PROTOCOLS)
        hint = did_you_mean(name, _PROTOCOLS)
        raise ConfigError(f"--protocol: unknown protocol {name!r}{hint}; known: {known}")
    return _PROTOCOLS[name]


@protocol("linear")
def linear(subject: Subject) -> Figures:
    """Logistic regression to convergence on frozen features."""
    train, test = subject.labels
    result = linear_probe(subject.train, train, subject.test, test)
    return {"linear_probe": result.top1, "linear_probe_top5": result.top5}


@protocol("linear-sgd")
def linear_sgd(subject: Subject) -> Figures:
    """A linear layer trained by SGD with random crops and flips."""
    train, test = subject.labels
    data = subject.data
    result = linear_probe_sgd(
        subject.encoder, data.train_images, train, data.test_images, test, device=subject.device
    )
    return {"linear_probe_sgd": result.top1, "linear_probe_sgd_top5": result.top5}


@protocol("knn")
def knn(subject: Subject) -> Figures:
    """Weighted vote of 200 and of 20 nearest neighbours."""
    train, test = subject.labels
    return {
        "knn": knn_accuracy(subject.train, train, subject.test, test, k=200),
        "knn_20": knn_accuracy(subject.train, train, subject.test, test, k=20),
    }


@protocol("blocks")
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


@protocol("quadrants")
def quadrants(subject: Subject) -> Figures:
    """Logistic regression on the features of all blocks together, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    _, train, test = _pooled(subject)
    result = linear_probe(train, train_labels, test, test_labels)
    return {"linear_probe_quadrants": result.top1}


@protocol("folds")
def folds(subject: Subject) -> Figures:
    """Logistic regression on each of the predefined folds of STL-10, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    if not subject.data.folds:
        raise DataError(
            "--protocol folds: is for the predefined folds of STL-10 (fold_indices.txt beside its "
            f"images), and {subject.name or 'this set'} has none; use --protocol quadrants"
        )
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


@protocol("shifts")
def shifts(subject: Subject) -> Figures:
    """Nearest neighbours in the features of moved images: which shift, and which class."""
    train_labels, test_labels = subject.labels
    data, device = subject.data, subject.device
    train = shifted_features(subject.encoder, data.train_images, train_labels, device=device)
    test = shifted_features(subject.encoder, data.test_images, test_labels, device=device)
    return {
        "shift_knn": vote_accuracy(train.features, train.shifts, test.features, test.shifts),
        "moved_label_knn": vote_accuracy(train.features, train.labels, test.features, test.labels),
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


@protocol("fid")
def fid(subject: Subject) -> Figures:
    """FID of as many synthetic images as there are test images against these."""
    return _fid(subject, "test")


@protocol("fid-train")
def fid_train(subject: Subject) -> Figures:
    """FID of as many synthetic images as there are training images against these."""
    return _fid(subject, "training")


def _fid(subject: Subject, split: Literal["test", "training"]) -> Figures:
    if subject.inception is None or subject.run is None:
        raise ArgumentError("fid: the subject has no run, or no Inception to measure it by")
    run = subject.run if subject.run.is_dir() else subject.run.parent
    found = read_generator(run)
    side = found.generator.resolution
    images, labels = subject.data.split(split)
    made = synthetic_for(found, run, images, labels, seed=FID_SEED, device=subject.device)
    if side != images.shape[-1] and subject.load is not None:
        images, _ = subject.load(side).split(split)
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
