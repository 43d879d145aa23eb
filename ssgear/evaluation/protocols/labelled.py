"""Protocols that learn from labels: linear probes, MLP probe, kNN, fine-tuning, transfer.

Each is run for every share of the labels that is asked for (`--labels 0.01 0.1 1`) and, where
something is drawn, for every seed (`--seeds 3`): the subset of a share below 1, initial weights,
the order of images. A figure of a share below 1 is called `linear_probe@0.01`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean, stdev

import torch
from torch import Tensor

from ssgear.errors import ConfigError, DataError, SsgearError, refusing
from ssgear.evaluation.features.rows import Rows, Subset
from ssgear.evaluation.probes.checks import unseen_classes
from ssgear.evaluation.probes.finetune import fine_tune
from ssgear.evaluation.probes.knn import knn_predictions
from ssgear.evaluation.probes.labels import balanced_subset, listed_subset
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.probes.mlp import mlp_probe
from ssgear.evaluation.probes.result import confusion
from ssgear.evaluation.probes.sgd import linear_probe_sgd
from ssgear.evaluation.protocols.registry import labels_of, protocol
from ssgear.evaluation.results import Exhibit, Measure, Measures, Outcome
from ssgear.evaluation.statistics import wilson
from ssgear.evaluation.subject import Subject
from ssgear.models.encoders import Normalized

KS = (200, 20)
"""Neighbours of kNN."""
NAMES = {200: "knn", 20: "knn_20"}
"""Figures of kNN."""
LISTS = {0.01: "1percent.txt", 0.1: "10percent.txt"}
"""Published lists of training images of ImageNet (Chen et al. 2020), by the share of labels."""
MOST_CLASSES = 1000
"""Classes up to which confusions are kept: a matrix of more is more than anybody reads."""

Predictions = Mapping[str, Tensor]
"""Best classes [num_test, at most 5] of the test images, by the name of a figure."""
Probe = Callable[[Tensor | None, int], Predictions]
"""Takes training rows (None: all) and a seed."""


def measure_shares(
    subject: Subject, probe: Probe, *, is_random: bool, shares: Sequence[float] | None = None
) -> Outcome:
    """Run a probe for every share of the labels, by default the options', and every seed."""
    train_labels, test_labels = subject.labels
    outcome = Outcome(notes=_unseen(train_labels, test_labels))
    classes = int((train_labels.bincount() > 0).sum())
    for share in subject.options.labels if shares is None else shares:
        is_drawn = share < 1 and subject.options.label_lists is None
        draws = subject.options.seeds if is_drawn or is_random else 1
        rows = [rows_of(subject, share, seed) for seed in range(draws)]
        runs = [probe(part, seed) for seed, part in enumerate(rows)]
        count = len(train_labels) if rows[0] is None else len(rows[0])
        at = "" if share == 1 else f"@{share:g}"
        measures: Measures = {}
        for name in runs[0]:
            predicted = [run[name] for run in runs]
            measures[f"{name}{at}"] = accuracy(predicted, test_labels, num_train=count)
            if predicted[0].shape[1] > 1:
                top5 = accuracy(predicted, test_labels, num_train=count, best=5)
                measures[f"{name}_top5{at}"] = top5
        notes: tuple[str, ...] = ()
        if share * len(train_labels) < classes == count:
            notes = (f"a share of {share:g} is less than an image of each class; {count} are used",)
        outcome |= Outcome(measures=measures, notes=notes)
    return outcome


def rows_of(subject: Subject, share: float, seed: int) -> Tensor | None:
    """Return the training rows of a share of the labels; None: all."""
    if share == 1:
        return None
    train_labels, _ = subject.labels
    lists, names = subject.options.label_lists, subject.data.train_names
    if lists is None:
        return balanced_subset(train_labels, share, seed=seed)
    if share not in LISTS or names is None:
        raise ConfigError(
            f"--label-lists: there are published lists for the shares 0.01 and 0.1 (got {share:g})"
        )
    return listed_subset(names, lists / LISTS[share])


def accuracy(predicted: list[Tensor], labels: Tensor, *, num_train: int, best: int = 1) -> Measure:
    """Return the share of test images whose class is among the best, over seeds their mean.

    The interval (Wilson) is of the mean as of one classifier: it says what other test images could
    have given. What other seeds could have given says the deviation.
    """
    right = [(p[:, :best] == labels[:, None]).any(1) for p in predicted]
    values = [float(part.double().mean()) for part in right]
    interval = wilson(round(fmean(values) * len(labels)), len(labels))
    return Measure(
        value=fmean(values),
        interval=interval,
        num_train=num_train,
        num_test=len(labels),
        values=tuple(values) if len(values) > 1 else (),
        deviation=stdev(values) if len(values) > 1 else None,
        # a paired test by image is of one classifier, not of a mean over several
        per_image=None if len(values) > 1 else right[0].to(torch.uint8),
        predicted=predicted[0] if best == 1 else None,
    )


def _unseen(train_labels: Tensor, test_labels: Tensor) -> tuple[str, ...]:
    missing = unseen_classes(train_labels, test_labels)
    if not missing:
        return ()
    images = int(torch.isin(test_labels, torch.tensor(missing)).sum())
    return (
        f"{len(missing)} classes of the test images have no training image; their {images} images "
        "count as wrong",
    )


def confusions(outcome: Outcome, subject: Subject, name: str) -> tuple[Exhibit, ...]:
    """Return which class was taken for which, where the figure has predictions."""
    classes, measure = subject.data.classes, outcome.measures.get(name)
    _, labels = subject.labels
    if measure is None or measure.predicted is None or classes is None:
        return ()
    if len(classes) > MOST_CLASSES:
        return ()
    count = max(len(classes), int(max(labels.max(), measure.predicted.max())) + 1)
    names = [*classes, *(str(number) for number in range(len(classes), count))]
    return (
        Exhibit(
            kind="confusion",
            title="linear probe",
            fields={"classes": names},
            tensors={"matrix": confusion(measure.predicted[:, 0], labels, count)},
        ),
    )


@protocol("linear", needs=labels_of)
def linear(subject: Subject) -> Outcome:
    """Logistic regression to convergence on frozen features."""
    outcome = linear_shares(subject, subject.options.labels)
    return outcome | Outcome(exhibits=confusions(outcome, subject, "linear_probe"))


def linear_shares(subject: Subject, shares: Sequence[float]) -> Outcome:
    """Run the linear probe for some shares of the labels."""
    _, test_labels = subject.labels
    doubts: list[str] = []

    def probe(rows: Tensor | None, seed: int) -> Predictions:
        train, labels = features_of(subject, rows)
        result = linear_probe(train, labels, subject.test, test_labels, device=subject.device)
        if not result.converged:
            doubts.append(f"the linear probe of {result.num_train:,} images has not converged")
        return {"linear_probe": result.predicted}

    outcome = measure_shares(subject, probe, is_random=False, shares=shares)
    return outcome | Outcome(notes=tuple(dict.fromkeys(doubts)))


def features_of(subject: Subject, rows: Tensor | None) -> tuple[Rows, Tensor]:
    """Return features and labels of some training images, or of all."""
    labels, _ = subject.labels
    return (subject.train, labels) if rows is None else (subject.train[rows], labels[rows])


def images_of(subject: Subject, rows: Tensor | None) -> tuple[Rows, Tensor]:
    """Return some training images and their labels, or all."""
    labels, _ = subject.labels
    images = subject.data.train_images
    return (images, labels) if rows is None else (Subset(images, rows), labels[rows])


@protocol("linear-sgd", needs=labels_of, reads_features=False)
def linear_sgd(subject: Subject) -> Outcome:
    """A linear layer trained by SGD with random crops and flips, the best of a grid."""
    _, test_labels = subject.labels

    def probe(rows: Tensor | None, seed: int) -> Predictions:
        images, labels = images_of(subject, rows)
        result = linear_probe_sgd(
            subject.encoder, images, labels, subject.data.test_images, test_labels, seed=seed,
            device=subject.device,
        )  # fmt: skip
        return {"linear_probe_sgd": result.predicted}

    return measure_shares(subject, probe, is_random=True)


@protocol("mlp", needs=labels_of)
def mlp(subject: Subject) -> Outcome:
    """A classifier with one hidden layer on frozen features."""
    _, test_labels = subject.labels

    def probe(rows: Tensor | None, seed: int) -> Predictions:
        train, labels = features_of(subject, rows)
        result = mlp_probe(
            train, labels, subject.test, test_labels, seed=seed, device=subject.device
        )
        return {"mlp_probe": result.predicted}

    return measure_shares(subject, probe, is_random=True)


@protocol("knn", needs=labels_of)
def knn(subject: Subject) -> Outcome:
    """Weighted vote of 200 and of 20 nearest neighbours."""
    doubts: list[str] = []

    def probe(rows: Tensor | None, seed: int) -> Predictions:
        train, labels = features_of(subject, rows)
        ks = {k: min(k, len(labels)) for k in KS}
        doubts.extend(
            f"kNN of {len(labels)} training images: all of them vote, in place of {k}"
            for k, votes in ks.items()
            if votes < k
        )
        votes = tuple(dict.fromkeys(ks.values()))
        by_k = knn_predictions(train, labels, subject.test, ks=votes, device=subject.device)
        return {NAMES[k]: by_k[ks[k]][:, None] for k in KS}

    outcome = measure_shares(subject, probe, is_random=False)
    return outcome | Outcome(notes=tuple(dict.fromkeys(doubts)))


def whole_of(subject: Subject) -> object:
    """Need labels, and an encoder as a whole."""
    if not isinstance(subject.encoder, Normalized):
        raise ConfigError(
            "--features: --protocol finetune trains the whole encoder; leave --features away"
        )
    return subject.labels


@protocol("finetune", needs=whole_of, reads_features=False)
def finetune(subject: Subject) -> Outcome:
    """All weights trained on, from these."""
    _, test_labels = subject.labels
    encoder = subject.encoder
    assert isinstance(encoder, Normalized)

    def probe(rows: Tensor | None, seed: int) -> Predictions:
        images, labels = images_of(subject, rows)
        result = fine_tune(
            encoder, images, labels, subject.data.test_images, test_labels, seed=seed,
            device=subject.device, label="Fine-tuning",
        )  # fmt: skip
        return {"finetune": result.predicted}

    return measure_shares(subject, probe, is_random=True)


def others_of(subject: Subject) -> object:
    """Need other sets of images, with labels."""
    if not subject.others:
        raise ConfigError(
            "--transfer: --protocol transfer needs other images; name sets or folders, "
            "--transfer cifar100:PATH FOLDER"
        )
    for name, load in subject.others.items():
        with refusing(SsgearError, partial(_no_transfer, name)):
            _ = load().labels
    return subject.others


def _no_transfer(name: str, error: SsgearError) -> DataError:
    return DataError(f"--transfer: {name}: {str(error).removeprefix('--protocol: ')}")


@protocol("transfer", needs=others_of, reads_features=False)
def transfer(subject: Subject) -> Outcome:
    """Linear probe and kNN of frozen features on other images."""
    outcome = Outcome()
    for name, load in subject.others.items():
        other = subject.on(load(), name)
        part = linear(other) | knn(other)
        outcome |= Outcome(
            # values by image belong to the test images that the file of figures names
            measures={
                f"{key}[{name}]": replace(measure, per_image=None)
                for key, measure in part.measures.items()
            },
            notes=tuple(f"{name}: {note}" for note in part.notes),
        )
    return outcome
