"""Protocols that read an encoder at every block, pooled in quadrants."""

from __future__ import annotations

from ssgear.errors import ArgumentError, ConfigError, DataError
from ssgear.evaluation.features.rows import Columns, Rows
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.protocols.labelled import accuracy
from ssgear.evaluation.protocols.registry import protocol
from ssgear.evaluation.results import Measure, Measures, Outcome
from ssgear.evaluation.subject import Subject
from ssgear.models.encoders import Normalized
from ssgear.models.encoders.blocks import PooledBlocks, block_names

BATCH = 64
"""Images at a time where the maps of all blocks are kept."""


def blocks_of(subject: Subject) -> object:
    """Need an encoder that tells its blocks, and labels."""
    encoder = subject.encoder
    if isinstance(encoder, Normalized) and not block_names(encoder.encoder.network):
        raise ConfigError(
            "--protocol: blocks, quadrants and folds read every block, which "
            f"{encoder.config.name} does not tell; use linear or knn"
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


@protocol("blocks", needs=blocks_of, reads_features=False)
def blocks(subject: Subject) -> Outcome:
    """Logistic regression on the features after each block, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    encoder, train, test = _pooled(subject)
    measures: Measures = {}
    start = 0
    for name, width in zip(encoder.names, encoder.widths, strict=True):
        parts = [Columns(rows, start, start + width) for rows in (train, test)]
        result = linear_probe(parts[0], train_labels, parts[1], test_labels, device=subject.device)
        measures[f"linear_probe_at_{name}"] = accuracy(
            [result.predicted], test_labels, num_train=len(train_labels)
        )
        start += width
    return Outcome(measures=measures)


@protocol("quadrants", needs=blocks_of, reads_features=False)
def quadrants(subject: Subject) -> Outcome:
    """Logistic regression on the features of all blocks together, pooled in quadrants."""
    train_labels, test_labels = subject.labels
    _, train, test = _pooled(subject)
    result = linear_probe(train, train_labels, test, test_labels, device=subject.device)
    measure = accuracy([result.predicted], test_labels, num_train=len(train_labels))
    return Outcome(measures={"linear_probe_quadrants": measure})


@protocol("folds", needs=folds_of, reads_features=False)
def folds(subject: Subject) -> Outcome:
    """Logistic regression on each of the set's predefined folds, pooled in quadrants."""
    folds_of(subject)
    train_labels, test_labels = subject.labels
    _, train, test = _pooled(subject)
    predicted = [
        linear_probe(
            train[rows], train_labels[rows], test, test_labels, device=subject.device
        ).predicted
        for rows in subject.data.folds
    ]
    measure = accuracy(predicted, test_labels, num_train=len(subject.data.folds[0]))
    deviation = Measure(value=0.0 if measure.deviation is None else measure.deviation)
    return Outcome(
        measures={"linear_probe_folds": measure, "linear_probe_folds_deviation": deviation}
    )


def _pooled(subject: Subject) -> tuple[PooledBlocks, Rows, Rows]:
    """Return features of all blocks, of training and of test images."""
    if not isinstance(subject.encoder, Normalized):
        raise ArgumentError("blocks: the subject's encoder is no Normalized encoder")
    encoder = PooledBlocks(subject.encoder)
    train, test = (
        subject.features(encoder, images, "blocks", batch_size=BATCH)
        for images in (subject.data.train_images, subject.data.test_images)
    )
    return encoder, train, test
