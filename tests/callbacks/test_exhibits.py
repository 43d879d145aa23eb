"""What protocols had to show, as the contents of a page."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssgear.callbacks.exhibits import with_outcome
from ssgear.evaluation.protocols import find
from ssgear.evaluation.results import Exhibit, Measure, Outcome
from ssgear.evaluation.similarity.retrieval import retrieve
from ssgear.report.contents import Contents
from tests.evaluation.protocols.subjects import make_data, make_subject


def at(value: float, count: int) -> Measure:
    return Measure(value=value, interval=(value - 0.1, value + 0.1), num_train=count)


def test_retrieval_shows_the_images_of_its_rows() -> None:
    subject = make_subject()
    outcome = find("map").measure(subject)
    contents = with_outcome(Contents(), outcome, subject.data)
    shown, labels = contents.retrieval, subject.labels[1]
    assert shown is not None and shown.neighbour_labels is not None
    (exhibit,) = outcome.exhibits
    rows, nearby = exhibit.tensors["queries"], exhibit.tensors["neighbours"]
    images = subject.data.test_images[:].permute(0, 2, 3, 1)
    assert torch.equal(torch.as_tensor(shown.queries), images[rows])
    assert torch.equal(torch.as_tensor(shown.neighbours), images[nearby])
    ranked = retrieve(subject.test, labels)
    for place, row in enumerate(rows.tolist()):
        assert shown.query_labels[place] == f"class {int(labels[row])}"
        assert shown.average_precisions[place] == pytest.approx(float(ranked.per_query[row]))
        assert shown.neighbour_labels[place] == [
            f"class {int(label)}" for label in labels[nearby[place]]
        ]
    assert shown.mean_average_precision == outcome.measures["map"].value
    assert shown.interval == outcome.measures["map"].interval and shown.num_queries == 37
    assert shown.precision_at == {
        k: outcome.measures[f"precision_at_{k}"].value for k in (1, 5, 10)
    }
    assert shown.recall_at == {k: outcome.measures[f"recall_at_{k}"].value for k in (1, 5, 10)}


def test_classes_without_a_name_are_numbered() -> None:
    data = make_data()
    subject = make_subject(dataclasses.replace(data, classes=("class 0", "class 1")))
    outcome = find("map").measure(subject) | find("linear").measure(subject)
    contents = with_outcome(Contents(), outcome, subject.data)
    assert contents.retrieval is not None and set(contents.retrieval.query_labels) <= {
        "class 0", "class 1", "2", "3", "4", "5",
    }  # fmt: skip
    (confusion,) = contents.confusions
    assert [*confusion.classes] == ["class 0", "class 1", "2", "3", "4", "5"]
    assert confusion.matrix.sum() == 37


def test_label_curves_are_of_figures_of_several_shares() -> None:
    outcome = Outcome(
        measures={
            "linear_probe@0.1": at(0.4, 10),
            "linear_probe_top5@0.1": at(0.8, 10),
            "linear_probe": at(0.7, 100),
            "linear_probe@0.01": at(0.2, 1),
            "knn": at(0.6, 100),
            "mlp_probe@0.1": at(0.3, 10),
            "linear_probe@0.1[digits]": at(0.9, 140),  # other images
            "linear_probe[digits]": at(0.95, 1400),
        }
    )
    untrained = Outcome(measures={"linear_probe": at(0.3, 100), "linear_probe@0.1": at(0.2, 10)})
    pixels = Outcome(measures={"linear_probe": at(0.25, 100)})
    contents = with_outcome(
        Contents(), outcome, make_data(), {"untrained": untrained, "pixels": pixels}
    )
    (curve,) = contents.label_curves
    assert curve.title == "linear probe"
    points = [(point.share, point.num_labels, point.accuracy) for point in curve.points]
    assert points == [(0.01, 1, 0.2), (0.1, 10, 0.4), (1.0, 100, 0.7)]
    assert curve.points[0].interval == pytest.approx((0.1, 0.3))
    assert {name: len(part) for name, part in curve.baselines.items()} == {"untrained": 2}


def test_matrices_curves_and_pictures() -> None:
    matrix, images = torch.rand(2, 3), torch.zeros(2, 3, 8, 8, 3, dtype=torch.uint8)
    names = {"rows": ["a", "b"], "columns": ["x", "y", "z"]}
    outcome = Outcome(
        exhibits=(
            Exhibit(
                kind="similarity", title="cka", fields={**names, "measure": "linear CKA"},
                tensors={"matrix": matrix},
            ),
            Exhibit(
                kind="similarity", title="opd",
                fields={**names, "measure": "orthogonal Procrustes distance"},
                tensors={"matrix": matrix},
            ),
            Exhibit(kind="invariance", title="", fields={"hue": [[0.5, 0.9], [1.0, 0.7]]}),
            Exhibit(
                kind="pictures", title="heads", fields={"columns": ["image", "0", "1"]},
                tensors={"images": images},
            ),
        )
    )  # fmt: skip
    contents = with_outcome(Contents(views=None), outcome, make_data())
    assert [(part.title, part.is_distance) for part in contents.similarities] == [
        ("cka", False), ("opd", True),
    ]  # fmt: skip
    assert [*contents.similarities[0].columns] == ["x", "y", "z"]
    assert torch.equal(torch.as_tensor(contents.similarities[0].matrix).float(), matrix)
    assert contents.invariance is not None
    assert contents.invariance.curves == {"hue": [(0.5, 0.9), (1.0, 0.7)]}
    (pictures,) = contents.pictures
    assert pictures.title == "heads" and [len(row) for row in pictures.rows] == [3, 3]
    nothing = with_outcome(Contents(), Outcome(), make_data())
    assert not any((nothing.confusions, nothing.similarities, nothing.pictures))
    assert nothing.invariance is nothing.retrieval is None
