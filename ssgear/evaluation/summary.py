"""The figures of a run's end: the encoder, the untrained encoder, and raw pixels, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from ssgear.errors import ArgumentError, SsgearError
from ssgear.evaluation.features import pixels
from ssgear.evaluation.protocols import find
from ssgear.evaluation.protocols.compared import layers_of, similarity_exhibit
from ssgear.evaluation.protocols.labelled import linear_shares
from ssgear.evaluation.protocols.registry import Protocol
from ssgear.evaluation.results import Measures, Outcome, fields_of
from ssgear.evaluation.similarity.cka import cka_matrix
from ssgear.evaluation.statistics import paired_figures
from ssgear.evaluation.subject import Subject
from ssgear.methods.base import OwnProtocol
from ssgear.storage.atomic import Json

FINAL = ("linear", "knn")
"""Protocols of all three."""
ALSO = ("map",)
"""Protocols of both encoders: raw pixels are too wide to rank every image by."""
SHARES = (0.01, 0.1)
"""Shares of the labels, beside all of them, that linear probes of both encoders learn from."""
LEAST_PER_CLASS = 2
"""Labels of each class below which a share is left out."""


LEAST_ALIKE = 4
"""Test images below which layers cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of an encoder, and the same of what it is compared with."""

    outcome: Outcome = field(default_factory=Outcome)
    baselines: Mapping[str, Outcome] = field(default_factory=dict)
    """Of raw pixels and of the untrained encoder, by name."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a protocol was left out, by its name."""
    test_labels: Tensor | None = None
    """Labels [N] of the test images."""

    @property
    def measures(self) -> Measures:
        """Return the encoder's own figures."""
        return self.outcome.measures

    def facts(self) -> dict[str, Json]:
        """Return what summary.json has beside the figures; nothing where nothing was measured."""
        fields: dict[str, Json] = {}
        if self.baselines:
            fields["baselines"] = {
                name: fields_of(outcome.measures) for name, outcome in self.baselines.items()
            }
            fields["gains"] = self._gains()
        if self.outcome.notes:
            fields["evaluation_notes"] = [*self.outcome.notes]
        if self.left_out:
            fields["left_out"] = dict(self.left_out)
        return fields

    def _gains(self) -> dict[str, Json]:
        """Return the difference to each baseline, tested image by image, by figure."""
        gains: dict[str, Json] = {}
        for figure, measure in self.measures.items():
            pairs: dict[str, Json] = {}
            for name, outcome in self.baselines.items():
                other = outcome.measures.get(figure)
                if other is None or other.per_image is None or measure.per_image is None:
                    continue
                difference = paired_figures(
                    measure.per_image, other.per_image, labels=self.test_labels
                )
                pairs[name] = {
                    "difference": difference.difference,
                    "interval": [*difference.interval],
                    "p_value": difference.p_value,
                    "test": difference.method,
                }
            if pairs:
                gains[figure] = pairs
        return gains


def evaluate_encoder(
    subject: Subject,
    *,
    untrained: Subject | None = None,
    raw: Subject | None = None,
    also: Sequence[str] = (),
    own: Sequence[OwnProtocol] = (),
) -> Summary:
    """Return linear probe, kNN and retrieval with the same of the baselines; empty without labels.

    Args:
        subject: The trained encoder.
        untrained: The same network before training.
        raw: Raw pixels (`Pixels`).
        also: Protocols, own ones among them, that both encoders are measured by too, but not the
            pixels; one that this encoder cannot be measured by is left out.
        own: Protocols of the method.
    """
    if not subject.data.labelled:
        return Summary()
    usual = [find(name) for name in FINAL]
    more: list[Protocol] = []
    left_out: dict[str, str] = {}
    for name in (*ALSO, *also):
        protocol = find(name, own)
        try:
            protocol.check(subject)
            more.append(protocol)
        except SsgearError as error:  # the end of a run is no place to refuse
            left_out[name] = str(error)
    baselines: dict[str, Outcome] = {}
    if raw is not None:
        baselines["pixels"] = _measure(raw, usual)
    outcome = _measure(subject, [*usual, *more]) | _fewer_labels(subject)
    if untrained is not None:
        baselines["untrained"] = _measure(untrained, [*usual, *more]) | _fewer_labels(untrained)
        outcome |= _layers(subject, untrained)
    return Summary(
        outcome=outcome,
        baselines=baselines,
        left_out=left_out,
        test_labels=subject.data.test_labels,
    )


class Pixels(nn.Module):
    """Raw pixels in an encoder's place."""

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 3 s s] in [0, 1]."""
        return pixels(images)


def _measure(subject: Subject, protocols: Sequence[Protocol]) -> Outcome:
    outcome = Outcome()
    for protocol in protocols:
        outcome |= protocol.measure(subject)
    return outcome


def _fewer_labels(subject: Subject) -> Outcome:
    """Return linear probes of a part of the labels, where that leaves enough of each class."""
    labels, _ = subject.labels
    counts = labels.bincount()
    smallest = int(counts[counts > 0].min())
    return linear_shares(subject, [s for s in SHARES if s * smallest >= LEAST_PER_CLASS])


def _layers(subject: Subject, untrained: Subject) -> Outcome:
    """Return how similar every layer is to those before training."""
    if len(subject.data.test_images) < LEAST_ALIKE:
        return Outcome()
    ours, theirs = layers_of(subject), layers_of(untrained)
    try:
        matrix = cka_matrix([*ours.values()], [*theirs.values()])
    except ArgumentError as error:  # features that have collapsed
        return Outcome(notes=(f"no similarity of layers: {error}",))
    title = "this run (rows) and the same network untrained (columns)"
    exhibit = similarity_exhibit(matrix, [*ours], [*theirs], title, "linear CKA")
    return Outcome(exhibits=(exhibit,))
