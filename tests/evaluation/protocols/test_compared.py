"""Health, retrieval, similarity of two encoders and invariance as protocols."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssgear.errors import ConfigError, DataError
from ssgear.evaluation import cka, mean_average_precision, opd
from ssgear.evaluation.features import extract
from ssgear.evaluation.health import centred, effective_rank
from ssgear.evaluation.protocols import find
from ssgear.evaluation.protocols.compared import layers_of
from ssgear.evaluation.similarity.invariance import invariance
from ssgear.evaluation.similarity.retrieval import retrieve
from ssgear.evaluation.statistics import bootstrap_mean
from ssgear.evaluation.subject import Subject
from ssgear.evaluation.summary import Pixels
from tests.evaluation.protocols.subjects import SIDE, make_data, make_subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject()


def test_health_is_the_rank_of_the_test_features(subject: Subject) -> None:
    figure = find("health").measure(subject).measures["effective_rank"]
    assert figure.value == effective_rank(centred(subject.test)) and figure.num_test == 37


def test_retrieval_has_the_figures_of_its_functions(subject: Subject) -> None:
    outcome = find("map").measure(subject)
    labels = subject.labels[1]
    figure = outcome.measures["map"]
    assert figure.value == mean_average_precision(subject.test, labels)
    ranked = retrieve(subject.test, labels, ks=(1, 5, 10))
    assert figure.interval == bootstrap_mean(ranked.per_query, groups=labels, mutual=True)
    assert figure.per_image is not None
    torch.testing.assert_close(figure.per_image, ranked.per_query.float())
    for k in (1, 5, 10):
        assert outcome.measures[f"recall_at_{k}"].value == ranked.recall_at[k]
        assert outcome.measures[f"precision_at_{k}"].value == ranked.precision_at[k]
    (exhibit,) = outcome.exhibits
    queries, neighbours = exhibit.tensors["queries"], exhibit.tensors["neighbours"]
    assert len(queries) == len(neighbours) == 9 and not bool((neighbours == queries[:, None]).any())


def test_images_alone_in_their_class_are_left_out_and_said() -> None:
    data = make_data()
    assert data.test_labels is not None
    labels = data.test_labels.clone()
    labels[labels == 5] = 0
    labels[7] = 5
    outcome = find("map").measure(make_subject(dataclasses.replace(data, test_labels=labels)))
    assert outcome.measures["map"].num_test == 36
    assert outcome.notes == ("map: 1 test images are alone in their class and are left out",)
    assert outcome.measures["map"].per_image is not None
    assert bool(outcome.measures["map"].per_image[7].isnan())


def test_retrieval_needs_two_images_of_a_class() -> None:
    data = make_data(test=6)
    with pytest.raises(ConfigError, match="every class has one; use more test images"):
        find("map").check(make_subject(data))
    assert find("map").check(make_subject(make_data(test=7))) is not None


def test_few_images_have_fewer_neighbours() -> None:
    measures = find("map").measure(make_subject(make_data(classes=2, test=5))).measures
    assert [*measures] == ["map", "recall_at_1", "precision_at_1"]


@pytest.mark.parametrize(("name", "function", "same"), [("cka", cka, 1.0), ("opd", opd, 0.0)])
def test_two_encoders_layer_by_layer(name: str, function: object, same: float) -> None:
    subject = make_subject()
    subject.against = make_subject()
    outcome = find(name).measure(subject)
    assert outcome.measures[name].value == pytest.approx(same, abs=1e-5)
    assert outcome.measures[name].num_test == 37
    (exhibit,) = outcome.exhibits
    matrix = exhibit.tensors["matrix"]
    torch.testing.assert_close(
        matrix.diagonal(), torch.full_like(matrix.diagonal(), same), atol=1e-5, rtol=0
    )
    assert exhibit.fields["rows"] == ["layer1", "layer2", "layer3", "output"]
    subject.against = other = make_subject(seed=1)
    outcome = find(name).measure(subject)
    assert callable(function)
    assert outcome.measures[name].value == pytest.approx(function(subject.test, other.test))
    assert abs(outcome.measures[name].value - same) > 0.01
    assert outcome.exhibits[0].title == "encoder 0 (rows) and encoder 1 (columns)"


def test_two_encoders_are_needed_and_four_images() -> None:
    subject = make_subject(make_data(classes=2, test=3))
    for name in ("cka", "opd"):
        subject.against = None
        with pytest.raises(ConfigError, match="--against: --protocol cka and opd compare two"):
            find(name).check(subject)
        subject.against = subject
        with pytest.raises(DataError, match=r"need 4 test images \(got 3\)"):
            find(name).check(subject)


def test_layers_are_means_over_places(subject: Subject) -> None:
    layers = layers_of(subject)
    maps: list[torch.Tensor] = []
    network = subject.encoder.encoder.network
    hook = network.layer1.register_forward_hook(lambda *call: maps.append(call[-1]))
    extract(subject.encoder, subject.data.test_images[:])
    hook.remove()
    torch.testing.assert_close(layers["layer1"][:], torch.cat(maps).mean((2, 3)))
    assert torch.equal(layers["output"][:], subject.test[:])
    assert [*layers_of(Subject(Pixels(), subject.data))] == ["output"]


def test_invariance_is_that_of_the_strongest_augmentation(subject: Subject) -> None:
    outcome = find("invariance").measure(subject)
    curves = invariance(subject.encode, subject.data.test_images, size=SIDE, seed=0)
    assert {name: figure.value for name, figure in outcome.measures.items()} == {
        f"invariance_{name}": points[-1][1] for name, points in curves.items()
    }
    (exhibit,) = outcome.exhibits
    assert exhibit.fields == {
        name: [[*point] for point in points] for name, points in curves.items()
    }
