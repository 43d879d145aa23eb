"""Measures of a generator as protocols: what is compared with what. The figures have own tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.generated.inception import Inception
from ssgear.evaluation.generated.kid import kernel_distance
from ssgear.evaluation.generated.prdc import prdc
from ssgear.evaluation.protocols import find, generated
from ssgear.evaluation.subject import Subject
from tests.evaluation.protocols.subjects import SIDE, make_data, make_subject, pictures
from tests.evaluation.stand_ins import Patches


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Subject:
    """A run whose generator makes noise of as many images as it is shown."""
    subject = make_subject(make_data())
    subject.run, subject.name = tmp_path, "colors"
    subject.inception = Inception(network=Patches(), digest="abc")
    config = SimpleNamespace(condition=SimpleNamespace(kind="none"))
    saved = SimpleNamespace(generator=SimpleNamespace(resolution=SIDE, config=config))
    subject.__dict__["generator"] = saved

    def synthetic(found: Any, run: Any, images: Tensor, labels: Any, **_: Any) -> Tensor:
        assert found is saved and run == tmp_path
        return pictures(torch.arange(len(images)) % 4, 9)

    monkeypatch.setattr(generated, "synthetic_for", synthetic)
    return subject


def test_synthetic_images_are_compared_with_all_test_images(subject: Subject) -> None:
    real = Patches()(subject.data.test_images[:])
    other = Patches()(pictures(torch.arange(37) % 4, 9))
    outcome = find("kid").measure(subject) | find("prdc").measure(subject)
    distance = kernel_distance(real, other, subset_size=37)
    assert outcome.measures["kid"].value == pytest.approx(distance.value)
    assert outcome.measures["kid_deviation"].value == pytest.approx(distance.deviation)
    for name, value in vars(prdc(real, other)).items():
        assert outcome.measures[name].value == pytest.approx(value)
        assert outcome.measures[name].num_test == 37
    assert outcome.notes == (
        "kid: 37 images in place of subsets of 1,000; the deviation says nothing",
    )
    assert "against 37 test images of colors" in outcome.statements["kid_protocol"]
    assert "Inception-v3 of weights abc" in outcome.statements["prdc_protocol"]


def test_fid_of_few_images_is_doubted(subject: Subject) -> None:
    for name, count in (("fid", 37), ("fid-train", 61)):
        outcome = find(name).measure(subject)
        figure = outcome.measures[name.replace("-", "_")]
        assert figure.num_test == count and figure.value > 0
        assert len(outcome.notes) == 1 and "2048" in outcome.notes[0].replace(",", "")
    one = make_data(classes=1, train=4, test=1)
    subject.data = one
    with pytest.raises(ArgumentError, match="give at least 2 of each kind"):
        find("fid").measure(subject)
