"""Protocols about the features themselves: health, retrieval, similarity of two encoders.

`cka` and `opd` compare two encoders (`--against SUBJECT`) on the same test images, layer by layer;
a convolutional layer is averaged over its places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ssgear.errors import ConfigError, DataError
from ssgear.evaluation.features.rows import Columns, Rows
from ssgear.evaluation.health import centred, effective_rank
from ssgear.evaluation.protocols.registry import protocol
from ssgear.evaluation.results import Exhibit, Measure, Measures, Outcome
from ssgear.evaluation.similarity.cka import cka_matrix
from ssgear.evaluation.similarity.examples import examples
from ssgear.evaluation.similarity.invariance import MAX_IMAGES
from ssgear.evaluation.similarity.invariance import invariance as measure_invariance
from ssgear.evaluation.similarity.opd import opd_matrix
from ssgear.evaluation.similarity.retrieval import Retrieval, retrieve
from ssgear.evaluation.statistics import bootstrap_mean
from ssgear.evaluation.subject import Subject
from ssgear.models.encoders import Normalized
from ssgear.models.encoders.blocks import PooledBlocks, block_names

KS = (1, 5, 10)
"""Neighbours of recall and precision."""
LEAST_IMAGES = 4
"""Test images below which two encoders cannot be compared."""
PER_KIND, SHOWN = 3, 8
"""Queries of each kind that a page shows, and neighbours of each."""
BATCH = 64
"""Images at a time where the maps of all blocks are kept."""


@protocol("health")
def health(subject: Subject) -> Outcome:
    """Effective rank of the test features; no labels needed."""
    rows = centred(subject.test)
    measure = Measure(value=effective_rank(rows), num_test=len(rows))
    return Outcome(measures={"effective_rank": measure})


def pairs_of(subject: Subject) -> object:
    """Need two test images of a class."""
    _, labels = subject.labels
    if int(labels.bincount().max()) < 2:
        raise ConfigError(
            "--protocol: map needs two test images of a class, and every class has one; use more "
            "test images"
        )
    return labels


@protocol("map", needs=pairs_of)
def mean_average_precision(subject: Subject) -> Outcome:
    """Retrieval: every test image is a query against the others of its set."""
    _, labels = subject.labels
    ks = [k for k in KS if k < len(labels)]
    retrieval = retrieve(subject.test, labels, ks=ks, device=subject.device)
    interval = bootstrap_mean(retrieval.per_query, groups=labels, mutual=True)
    count = len(labels)
    measures: Measures = {
        "map": Measure(
            value=retrieval.mean_average_precision,
            interval=interval,
            num_test=count - retrieval.num_alone,
            per_image=retrieval.per_query.float(),
        )
    }
    for name, by_k in (("recall", retrieval.recall_at), ("precision", retrieval.precision_at)):
        measures |= {
            f"{name}_at_{k}": Measure(value=value, num_test=count - retrieval.num_alone)
            for k, value in by_k.items()
        }
    notes = (f"map: {retrieval.num_alone} test images are alone in their class and are left out",)
    return Outcome(
        measures=measures,
        notes=notes if retrieval.num_alone else (),
        exhibits=(_retrieval(subject, retrieval, labels),),
    )


def _retrieval(subject: Subject, retrieval: Retrieval, labels: Tensor) -> Exhibit:
    shown = examples(retrieval, subject.test, labels, per_kind=PER_KIND, k=SHOWN)
    return Exhibit(
        kind="retrieval",
        title="retrieval",
        fields={"kinds": list(shown.kinds)},
        tensors={
            "queries": shown.queries,
            "neighbours": shown.neighbours,
            "similarities": shown.similarities,
        },
    )


def other_of(subject: Subject) -> object:
    """Need another encoder."""
    if subject.against is None:
        raise ConfigError(
            "--against: --protocol cka and opd compare two encoders; name the other one, a run, an "
            "encoder.safetensors or timm:NAME"
        )
    count = len(subject.data.test_images)
    if count < LEAST_IMAGES:
        raise DataError(f"--protocol: cka and opd need {LEAST_IMAGES} test images (got {count})")
    return subject.against


@protocol("cka", needs=other_of)
def cka(subject: Subject) -> Outcome:
    """Linear CKA with another encoder, layer by layer."""
    return _similarity(subject, "cka", "linear CKA", cka_matrix)


@protocol("opd", needs=other_of)
def opd(subject: Subject) -> Outcome:
    """Orthogonal Procrustes distance to another encoder, layer by layer."""
    return _similarity(subject, "opd", "orthogonal Procrustes distance", opd_matrix)


Compare = Callable[[Sequence[Rows], Sequence[Rows]], Tensor]


def _similarity(subject: Subject, name: str, measure: str, compare: Compare) -> Outcome:
    assert subject.against is not None
    layers, others = layers_of(subject), layers_of(subject.against)
    matrix = compare([*layers.values()], [*others.values()])
    exhibit = similarity_exhibit(
        matrix,
        [*layers],
        [*others],
        f"{subject.title} (rows) and {subject.against.title} (columns)",
        measure,
    )
    value = Measure(value=float(matrix[-1, -1]), num_test=len(subject.test))
    return Outcome(measures={name: value}, exhibits=(exhibit,))


def similarity_exhibit(
    matrix: Tensor, rows: Sequence[str], columns: Sequence[str], title: str, measure: str
) -> Exhibit:
    """Return a matrix of similarities of layers for a page."""
    return Exhibit(
        kind="similarity",
        title=title,
        fields={"rows": list(rows), "columns": list(columns), "measure": measure},
        tensors={"matrix": matrix},
    )


def layers_of(subject: Subject) -> dict[str, Rows]:
    """Return features of the test images at every block and at the end, by name."""
    encoder, layers = subject.encoder, {"output": subject.test}
    if not isinstance(encoder, Normalized) or not block_names(encoder.encoder.network):
        return layers
    reader = PooledBlocks(encoder, pooling="mean")
    rows = subject.features(reader, subject.data.test_images, "layers", batch_size=BATCH)
    blocks: dict[str, Rows] = {}
    start = 0
    for name, width in zip(reader.names, reader.widths, strict=True):
        blocks[name] = Columns(rows, start, start + width)
        start += width
    return {**blocks, **layers}


@protocol("invariance", reads_features=False)
def invariance(subject: Subject) -> Outcome:
    """How far features move under each augmentation, by strength."""
    images = subject.data.test_images
    curves = measure_invariance(subject.encode, images, size=int(images.shape[-1]), seed=0)
    count = min(len(images), MAX_IMAGES)
    return Outcome(
        measures={
            f"invariance_{name}": Measure(value=points[-1][1], num_test=count)
            for name, points in curves.items()
        },
        exhibits=(
            Exhibit(
                kind="invariance",
                title="invariance",
                fields={name: [list(point) for point in points] for name, points in curves.items()},
            ),
        ),
    )
