"""The figures of a run's end: the encoder, the untrained encoder, and raw pixels, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssgear.errors import ConfigError
from ssgear.evaluation import protocols
from ssgear.evaluation.features import pixels
from ssgear.evaluation.protocols import EvalData, Figures, Protocol, Subject
from ssgear.methods.base import OwnProtocol
from ssgear.storage.atomic import Json

FINAL = ("linear", "knn")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of an encoder, and the same of what it is compared with."""

    figures: Figures = field(default_factory=dict)
    baselines: dict[str, Figures] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a protocol was left out, by its name."""

    def fields(self) -> dict[str, Json]:
        """Return what summary.json has of them; nothing where nothing was measured."""
        fields: dict[str, Json] = {**self.figures}
        if self.baselines:
            fields["baselines"] = self.baselines
        if self.left_out:
            fields["left_out"] = self.left_out
        return fields


def evaluate_encoder(
    encoder: nn.Module,
    data: EvalData,
    *,
    untrained: nn.Module | None = None,
    also: Sequence[str] = (),
    own: Sequence[OwnProtocol] = (),
    device: torch.device | None = None,
) -> Summary:
    """Return linear probe and kNN with the same of the baselines; empty without labels.

    `also` names protocols, `own` ones among them, that both encoders are measured by too, but not
    the pixels; one that this encoder cannot be measured by is left out.
    """
    if not data.labelled:
        return Summary()
    subject = Subject(encoder, data, device or torch.device("cpu"))
    usual = [protocols.find(name) for name in FINAL]
    more: list[Protocol] = []
    left_out: dict[str, str] = {}
    for name in also:
        protocol = protocols.find(name, own)
        try:
            protocol.check(subject)
            more.append(protocol)
        except ConfigError as error:
            left_out[name] = str(error)
    baselines = {"pixels": _figures(Subject(Pixels(), data), usual)}
    figures = _figures(subject, [*usual, *more])
    if untrained is not None:
        subject = Subject(untrained, data, subject.device)
        baselines["untrained"] = _figures(subject, [*usual, *more])
    return Summary(figures=figures, baselines=baselines, left_out=left_out)


class Pixels(nn.Module):
    """Raw pixels in an encoder's place."""

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 3 s s] in [0, 1]."""
        return pixels(images)


def _figures(subject: Subject, chosen: Sequence[Protocol]) -> Figures:
    figures: Figures = {}
    for protocol in chosen:
        figures |= protocol.measure(subject)
    return figures
