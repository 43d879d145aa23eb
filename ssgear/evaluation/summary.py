"""The figures of a run's end: the encoder, the untrained encoder, and raw pixels, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssgear.errors import ConfigError
from ssgear.evaluation import protocols
from ssgear.evaluation.features import pixels
from ssgear.evaluation.protocols import EvalData, Figures, Subject

FINAL = ("linear", "knn")


def evaluate_encoder(
    encoder: nn.Module,
    data: EvalData,
    *,
    untrained: nn.Module | None = None,
    also: Sequence[str] = (),
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Return linear probe and kNN with the same under `baselines`; empty without labels.

    `also` names protocols that both encoders are measured by too, but not the pixels; one that this
    encoder cannot be measured by is left out, and `left_out` says why.
    """
    if not data.labelled:
        return {}
    device = device or torch.device("cpu")
    left_out: dict[str, str] = {}
    subject = Subject(encoder, data, device)
    for name in also:
        try:
            protocols.check((name,), subject)
        except ConfigError as error:
            left_out[name] = str(error)
    also = [name for name in also if name not in left_out]
    summary: dict[str, Any] = dict(_figures(encoder, data, device, also))
    summary["baselines"] = {"pixels": _figures(Pixels(), data, torch.device("cpu"))}
    if untrained is not None:
        summary["baselines"]["untrained"] = _figures(untrained, data, device, also)
    return summary | ({"left_out": left_out} if left_out else {})


class Pixels(nn.Module):
    """Raw pixels in an encoder's place."""

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, 3 s s] in [0, 1]."""
        return pixels(images)


def _figures(
    encoder: nn.Module, data: EvalData, device: torch.device, also: Sequence[str] = ()
) -> Figures:
    subject = Subject(encoder, data, device)
    figures: Figures = {}
    for name in (*FINAL, *also):
        figures |= protocols.find(name)(subject)
    return figures
