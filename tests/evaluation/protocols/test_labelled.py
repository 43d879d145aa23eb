"""What protocols make of probes: shares, seeds, intervals and notes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import ConfigError, DataError
from ssgear.evaluation.probes.knn import knn_predictions
from ssgear.evaluation.probes.labels import balanced_subset
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.probes.mlp import mlp_probe
from ssgear.evaluation.protocols import find, labelled
from ssgear.evaluation.results import Outcome
from ssgear.evaluation.statistics import wilson
from ssgear.evaluation.subject import Options, Subject
from ssgear.evaluation.summary import Pixels
from tests.evaluation.protocols.subjects import make_data, make_subject


def measure(name: str, subject: Subject) -> Outcome:
    find(name).check(subject)
    return find(name).measure(subject)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject(labels=(0.3, 1.0), seeds=3)


def linear_by_hand(subject: Subject, rows: Tensor | slice) -> Tensor:
    train_labels, test_labels = subject.labels
    return linear_probe(
        subject.train[rows], train_labels[rows], subject.test, test_labels
    ).predicted


def test_a_share_is_measured_for_every_seed_and_the_whole_once(subject: Subject) -> None:
    outcome = measure("linear", subject)
    train_labels, labels = subject.labels
    assert [*outcome.measures] == [
        "linear_probe@0.3", "linear_probe_top5@0.3", "linear_probe", "linear_probe_top5",
    ]  # fmt: skip
    rows = [balanced_subset(train_labels, 0.3, seed=seed) for seed in range(3)]
    predicted = [linear_by_hand(subject, part) for part in rows]
    for name, best in (("linear_probe@0.3", 1), ("linear_probe_top5@0.3", 5)):
        figure = outcome.measures[name]
        right = [(p[:, :best] == labels[:, None]).any(1) for p in predicted]
        values = [float(part.double().mean()) for part in right]
        assert figure.values == pytest.approx(values) and len(set(values)) > 1
        assert figure.value == pytest.approx(fmean(values))
        assert figure.deviation == pytest.approx(stdev(values))
        assert figure.per_image is None  # a paired test is not of a mean over seeds
        assert figure.interval == wilson(round(fmean(values) * 37), 37)
        assert (figure.num_train, figure.num_test) == (len(rows[0]), 37) == (18, 37)
    whole = outcome.measures["linear_probe"]
    assert whole.value == float(
        (linear_by_hand(subject, slice(None))[:, 0] == labels).double().mean()
    )
    assert (whole.values, whole.deviation, whole.num_train) == ((), None, 61)
    assert outcome.measures["linear_probe_top5"].value > whole.value
    assert outcome.measures["linear_probe_top5"].predicted is None


def test_the_confusion_is_that_of_all_labels(subject: Subject) -> None:
    outcome = measure("linear", subject)
    (exhibit,) = outcome.exhibits
    matrix, labels = exhibit.tensors["matrix"], subject.labels[1]
    assert exhibit.fields["classes"] == [f"class {number}" for number in range(6)]
    assert torch.equal(matrix.sum(1), labels.bincount())
    right = outcome.measures["linear_probe"].per_image
    assert right is not None and int(matrix.diagonal().sum()) == int(right.sum())


def test_a_probe_with_random_weights_is_measured_for_every_seed(subject: Subject) -> None:
    outcome = measure("mlp", dataclasses.replace(subject, options=Options(seeds=2)))
    train_labels, labels = subject.labels
    values = [
        mlp_probe(subject.train, train_labels, subject.test, labels, seed=seed).top1
        for seed in range(2)
    ]
    figure = outcome.measures["mlp_probe"]
    assert figure.values == pytest.approx(values) and figure.num_train == 61
    assert figure.deviation == pytest.approx(stdev(values))


def test_neighbours_are_at_most_all_images_and_it_is_said(subject: Subject) -> None:
    outcome = measure("knn", subject)
    train_labels, labels = subject.labels
    by_k = knn_predictions(subject.train, train_labels, subject.test, ks=(61, 20))
    for name, k in (("knn", 61), ("knn_20", 20)):
        right = (by_k[k] == labels).double()
        assert outcome.measures[name].value == float(right.mean())
    assert f"{name}_top5" not in outcome.measures
    assert outcome.notes == (
        "kNN of 18 training images: all of them vote, in place of 200",
        "kNN of 18 training images: all of them vote, in place of 20",
        "kNN of 61 training images: all of them vote, in place of 200",
    )


def test_classes_without_a_training_image_count_as_wrong() -> None:
    data = make_data()
    assert isinstance(data.train_images, Tensor) and data.train_labels is not None
    rows = (data.train_labels < 4).nonzero()[:, 0]
    data = dataclasses.replace(
        data, train_images=data.train_images[rows], train_labels=data.train_labels[rows]
    )
    outcome = measure("linear", make_subject(data))
    assert (
        "2 classes of the test images have no training image; their 12 images count as wrong"
        in (outcome.notes)
    )
    figure, labels = outcome.measures["linear_probe"], data.test_labels
    assert figure.per_image is not None and labels is not None
    assert int(figure.per_image[labels >= 4].sum()) == 0 < int(figure.per_image.sum())
    assert outcome.exhibits[0].tensors["matrix"].shape == (6, 6)


def test_a_share_of_less_than_an_image_of_each_class_is_said() -> None:
    subject = make_subject(labels=(1e-4,))
    outcome = measure("knn", subject)
    assert outcome.measures["knn@0.0001"].num_train == 6
    assert "a share of 0.0001 is less than an image of each class; 6 are used" in outcome.notes
    assert not any("a share" in note for note in measure("knn", make_subject()).notes)


def test_published_lists_name_the_images(tmp_path: Path) -> None:
    (tmp_path / "1percent.txt").write_text("3.png\n16.png\n4.png\n")
    subject = make_subject(labels=(0.01,))
    subject.options = dataclasses.replace(subject.options, label_lists=tmp_path)
    outcome = measure("linear", subject)
    rows = torch.tensor([3, 4, 16])
    predicted = linear_by_hand(subject, rows)[:, 0]
    expected = float((predicted == subject.labels[1]).double().mean())
    assert outcome.measures["linear_probe@0.01"].value == expected
    assert outcome.measures["linear_probe@0.01"].num_train == 3
    subject.options = dataclasses.replace(subject.options, labels=(0.5,))
    with pytest.raises(ConfigError, match=r"--label-lists: .* shares 0.01 and 0.1 \(got 0.5\)"):
        measure("linear", subject)


def test_what_trains_on_images_gets_those_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_subject(labels=(0.3,), seeds=2)
    train_labels, labels = subject.labels
    calls: list[tuple[Tensor, Tensor, int]] = []

    def stand_in(
        encoder: Any, images: Any, wanted: Tensor, test_images: Any, test_labels: Tensor, *,
        seed: int, device: torch.device, label: str = "",
    ) -> Any:  # fmt: skip
        assert encoder is subject.encoder and torch.equal(test_labels, labels)
        calls.append((images[:], wanted, seed))
        return SimpleNamespace(predicted=((labels + seed) % 6)[:, None])

    for protocol, function, name in (
        ("finetune", "fine_tune", "finetune@0.3"),
        ("linear-sgd", "linear_probe_sgd", "linear_probe_sgd@0.3"),
    ):
        calls.clear()
        monkeypatch.setattr(labelled, function, stand_in)
        figure = measure(protocol, subject).measures[name]
        assert figure.values == (1.0, 0.0) and figure.interval == wilson(18, 37)
        for number, (images, wanted, seed) in enumerate(calls):
            rows = balanced_subset(train_labels, 0.3, seed=number)
            assert seed == number and torch.equal(wanted, train_labels[rows])
            assert torch.equal(images, subject.data.train_images[rows])
        assert len(calls) == 2
    with pytest.raises(ConfigError, match="--protocol finetune trains the whole encoder"):
        find("finetune").check(dataclasses.replace(subject, encoder=Pixels()))


def test_transfer_is_the_linear_probe_and_knn_of_other_images(subject: Subject) -> None:
    other = make_data(classes=3, train=31, test=22)
    there = make_subject(labels=(1.0,))
    there.others = {"colors": lambda: other}
    outcome = measure("transfer", there)
    here = make_subject(other)
    expected = measure("linear", here) | measure("knn", here)
    assert outcome.measures.keys() == {f"{name}[colors]" for name in expected.measures}
    for name, figure in expected.measures.items():
        found = outcome.measures[f"{name}[colors]"]
        assert found.value == figure.value and found.fields() == figure.fields()
        assert found.per_image is None  # they are not of the main test images
    assert outcome.notes == tuple(f"colors: {note}" for note in expected.notes)


def test_what_transfer_lacks_is_found_before_anything_is_computed() -> None:
    subject = make_subject()
    with pytest.raises(ConfigError, match="--protocol transfer needs other images"):
        find("transfer").check(subject)
    bare = dataclasses.replace(make_data(), train_labels=None, test_labels=None)
    subject.others = {"bare": lambda: bare}
    with pytest.raises(DataError, match=r"^--transfer: bare: this protocol needs labels and these"):
        find("transfer").check(subject)

    def missing() -> Any:
        raise DataError("x/y: cannot be read")

    subject.others = {"gone": missing}
    with pytest.raises(DataError, match=r"^--transfer: gone: x/y: cannot be read"):
        find("transfer").check(subject)


def test_a_published_list_is_fixed_whatever_the_seeds(tmp_path: Path) -> None:
    subject = make_subject()
    assert subject.data.train_names is not None
    names = [name.rpartition("/")[2] for name in subject.data.train_names[:20]]
    (tmp_path / "10percent.txt").write_text("\n".join(names) + "\n")
    subject.options = Options(labels=(0.1,), label_lists=tmp_path, seeds=3)
    figure = measure("linear", subject).measures["linear_probe@0.1"]
    assert figure.num_train == 20 and figure.deviation is None
