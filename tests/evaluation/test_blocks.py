"""Probes per block, on all blocks, and on predefined folds, against probes of features by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError, DataError
from ssgear.evaluation import linear_probe
from ssgear.evaluation.features import extract
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.protocols import find
from ssgear.evaluation.subject import Subject
from ssgear.evaluation.summary import Pixels, evaluate_encoder
from ssgear.models.encoders import Normalized, build_encoder
from ssgear.models.encoders.blocks import PooledBlocks


@pytest.fixture(scope="module")
def subject() -> Subject:
    encoder = build_encoder(ModelConfig(name="4c3-6c3-8f"), 16)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (90, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.arange(90) % 3
    images[labels == 1, 0] //= 2
    images[labels == 2, :, 8:] //= 2
    data = EvalData(
        train_images=images[:60],
        train_labels=labels[:60],
        test_images=images[60:],
        test_labels=labels[60:],
        folds=(torch.arange(0, 40), torch.arange(20, 60)),
    )
    return Subject(Normalized(encoder, (0.5,) * 3, (0.5,) * 3), data)


def figures_of(name: str, subject: Subject) -> dict[str, float]:
    measures = find(name).measure(subject).measures
    return {key: measure.value for key, measure in measures.items()}


def probe(subject: Subject, names: list[str] | None, rows: torch.Tensor) -> float:
    assert isinstance(subject.encoder, Normalized)
    encoder, data = PooledBlocks(subject.encoder, names), subject.data
    assert data.train_labels is not None and data.test_labels is not None
    train, test = extract(encoder, data.train_images[:]), extract(encoder, data.test_images[:])
    return linear_probe(train[rows], data.train_labels[rows], test, data.test_labels).top1


def test_every_block_and_all_together(subject: Subject) -> None:
    every = torch.arange(60)
    figures = figures_of("blocks", subject)
    expected = {
        f"linear_probe_at_{name}": probe(subject, [name], every)
        for name in ("layer1", "layer2", "layer3")
    }
    assert figures == expected
    assert max(figures.values()) > 0.6
    together = {"linear_probe_quadrants": probe(subject, None, every)}
    assert figures_of("quadrants", subject) == together


def test_folds_have_a_mean_and_a_deviation(subject: Subject) -> None:
    one, two = (probe(subject, None, rows) for rows in subject.data.folds)
    figures = figures_of("folds", subject)
    assert figures["linear_probe_folds"] == pytest.approx((one + two) / 2)
    assert figures["linear_probe_folds_deviation"] == pytest.approx(abs(one - two) / 2**0.5)
    without = Subject(subject.encoder, dataclasses.replace(subject.data, folds=()), name="mini")
    with pytest.raises(DataError, match=r"folds: .* of a published set, and mini has none"):
        find("folds").measure(without)
    with pytest.raises(DataError, match=r"--protocol folds"):  # before anything is computed
        find("folds").check(without)


def test_networks_that_do_not_tell_their_blocks() -> None:
    encoder = Normalized(build_encoder(ModelConfig(name="drlim"), 32), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ConfigError, match=r"--features: drlim does not tell its blocks; leave"):
        PooledBlocks(encoder)
    labels = torch.arange(6) % 2
    images = torch.arange(6 * 3 * 32 * 32).remainder(251).view(6, 3, 32, 32).byte()
    data = EvalData(
        train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    for name in ("blocks", "quadrants"):  # before anything is computed
        with pytest.raises(ConfigError, match=r"--protocol: blocks, .* which drlim does not tell"):
            find(name).check(Subject(encoder, data))
    subject = Subject(encoder, data)
    summary = evaluate_encoder(  # the end of a run is no place to refuse
        subject, untrained=subject, raw=Subject(Pixels(), data), also=("blocks",)
    )
    usual = {"linear_probe", "linear_probe_top5", "knn", "knn_20"}
    assert usual < set(summary.measures) and "map" in summary.measures
    assert set(summary.baselines["pixels"].measures) == usual
    assert set(summary.baselines["untrained"].measures) == set(summary.measures)
    gain = summary.facts()["gains"]["linear_probe"]["untrained"]  # type: ignore[index, call-overload]
    assert gain["difference"] == 0 and gain["p_value"] == 1  # type: ignore[index, call-overload]
    assert "drlim does not tell" in summary.left_out["blocks"]
