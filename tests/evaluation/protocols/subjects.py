"""Small subjects: images of a few colors, and an encoder of three layers that is not trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.subject import Options, Subject
from ssgear.models.encoders import Normalized, build_encoder

SIDE = 16


def pictures(labels: Tensor, seed: int) -> Tensor:
    """Return images whose color depends on their class, with much noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(labels), 3, SIDE, SIDE)
    noise = torch.randint(0, 160, shape, dtype=torch.uint8, generator=generator)
    tints = torch.randint(0, 90, (9, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    return noise + tints[labels].byte()


def make_data(classes: int = 6, train: int = 61, test: int = 37) -> EvalData:
    """Return images of so many classes, whose numbers differ."""
    train_labels, test_labels = (torch.arange(count) % classes for count in (train, test))
    return EvalData(
        train_images=pictures(train_labels, 2),
        train_labels=train_labels,
        test_images=pictures(test_labels, 3),
        test_labels=test_labels,
        classes=tuple(f"class {number}" for number in range(classes)),
        train_names=tuple(f"a/{number}.png" for number in range(train)),
        test_print="print",
    )


def make_subject(
    data: EvalData | None = None, *, labels: Sequence[float] = (1.0,), seeds: int = 1, seed: int = 0
) -> Subject:
    """Return an encoder of random weights on images."""
    encoder = build_encoder(ModelConfig(name="4c3-6c3-8f"), SIDE, seed=seed)
    return Subject(
        Normalized(encoder, (0.5,) * 3, (0.5,) * 3).eval(),
        make_data() if data is None else data,
        options=Options(labels=tuple(labels), seeds=seeds),
        title=f"encoder {seed}",
    )
