"""What a run's summary says of its baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.protocols import find
from ssgear.evaluation.results import Measure, Outcome
from ssgear.evaluation.similarity.retrieval import retrieve
from ssgear.evaluation.statistics import mcnemar
from ssgear.evaluation.subject import Subject
from ssgear.evaluation.summary import Summary, evaluate_encoder
from ssgear.models.encoders import Normalized, build_encoder

LABELS = torch.from_numpy(np.random.default_rng(0).choice(5, 93, p=[0.5, 0.3, 0.1, 0.08, 0.02]))


def outcome(seed: int) -> Outcome:
    """Return retrieval by random features, and right or wrong by image."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(93, 7, generator=generator) + LABELS[:, None] * 0.4
    result = retrieve(features, LABELS, ks=())
    right = (torch.rand(93, generator=generator) < 0.5).to(torch.uint8)
    return Outcome(
        measures={
            "map": Measure(value=result.mean_average_precision, per_image=result.per_query.float()),
            "knn": Measure(value=float(right.double().mean()), per_image=right),
            "effective_rank": Measure(value=4.0),
        }
    )


def values(part: Outcome, figure: str) -> Tensor:
    values = part.measures[figure].per_image
    assert values is not None
    return values


def test_gains_are_the_differences_of_the_figures() -> None:
    ours, theirs = outcome(1), outcome(2)
    summary = Summary(outcome=ours, baselines={"untrained": theirs}, test_labels=LABELS)
    gains: Any = summary.facts()["gains"]
    assert gains.keys() == {"map", "knn"}
    for name, parts in gains.items():
        expected = ours.measures[name].value - theirs.measures[name].value
        assert parts["untrained"]["difference"] == pytest.approx(expected, abs=1e-6), name
    plain = float(values(ours, "map").nanmean() - values(theirs, "map").nanmean())
    assert abs(plain - gains["map"]["untrained"]["difference"]) > 1e-3  # classes differ in size
    assert gains["map"]["untrained"]["test"] == "bootstrap"
    accuracy = mcnemar(values(ours, "knn"), values(theirs, "knn"))
    assert gains["knn"]["untrained"]["p_value"] == accuracy.p_value
    assert gains["knn"]["untrained"]["test"] == "McNemar"


def test_retrieval_is_left_out_where_every_class_has_one_test_image() -> None:
    """A run with many classes and few test images ends with the other figures."""
    encoder = Normalized(build_encoder(ModelConfig(name="drlim"), 32), (0.5,) * 3, (0.5,) * 3)
    images = torch.arange(9 * 3 * 32 * 32).remainder(251).view(9, 3, 32, 32).byte()
    labels = torch.arange(9) % 3
    data = EvalData(
        train_images=images, train_labels=labels, test_images=images[:3], test_labels=labels[:3]
    )
    subject = Subject(encoder, data)
    with pytest.raises(ConfigError, match="map needs two test images of a class"):
        find("map").check(subject)
    summary = evaluate_encoder(subject, untrained=subject)
    assert {"linear_probe", "knn"} < set(summary.measures) and "map" not in summary.measures
    left_out: Any = summary.facts()["left_out"]
    assert "map needs two test images" in left_out["map"]
