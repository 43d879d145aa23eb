"""DrLIM: graphs, pairs and loss by hand, refusals, and both maps of the paper."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.config.schema import DataConfig, ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources import open_source
from ssgear.data.sources.loading import decode_all
from ssgear.data.sources.source import Source
from ssgear.errors import ConfigError, DataError
from ssgear.methods.base import Facts
from ssgear.methods.drlim.method import DrLIM
from ssgear.methods.drlim.pretext import SHIFTS, shifted
from ssgear.models.encoders import build_encoder

FACTS = Facts(augmentation=view_set("none"), num_images=9, size=32)


def method(**settings: Any) -> DrLIM:
    torch.manual_seed(0)
    config = DrLIM.Config(**settings)
    facts = dataclasses.replace(FACTS, pretext=DrLIM.build_pretext(config))
    return DrLIM.build(config, build_encoder(ModelConfig(name="drlim"), 32), facts)


def digits() -> Source:
    return open_source(DataConfig(source="digits"), "train")


def selected(**settings: Any) -> Source:
    return DrLIM.build_pretext(DrLIM.Config(**settings)).select(digits())


def test_only_the_digits_that_are_shown() -> None:
    chosen = selected()
    every = digits()
    assert every.labels is not None and chosen.labels is not None
    wanted = [label for label in every.labels.tolist() if label in (4, 9)]
    assert chosen.classes == ("4", "9")
    assert [int(chosen.classes[label]) for label in chosen.labels.tolist()] == wanted
    assert len(selected(digits=tuple(range(10)))) == len(digits())


def test_every_image_at_all_shifts() -> None:
    made = method(max_images=20)
    wrapped = made.pretext.wrap_source(selected(), FACTS)
    assert len(wrapped) == 100
    pixels, _ = decode_all(wrapped, DataConfig())
    for place, by in enumerate(SHIFTS):
        assert torch.equal(pixels[15 + place], shifted(pixels[17], by))
    assert wrapped.labels is not None and len(set(wrapped.labels[15:20].tolist())) == 1


def test_shifts_move_to_the_right_and_bring_in_black() -> None:
    image = torch.arange(1, 7).view(1, 1, 1, 6)
    assert shifted(image, 2).flatten().tolist() == [0, 0, 1, 2, 3, 4]
    assert shifted(image, -3).flatten().tolist() == [4, 5, 6, 0, 0, 0]
    assert torch.equal(shifted(image, 0), image)
    assert not shifted(image, 6).any()


@pytest.mark.parametrize("graph", ["plain", "shift"])
def test_who_is_a_neighbour(graph: str) -> None:
    made = method(max_images=20, graph=graph, neighbours=3)
    pixels, _ = decode_all(made.pretext.wrap_source(selected(), FACTS), DataConfig())
    rows = pixels.flatten(1).double()
    if graph == "shift":
        rows = rows[2::5]  # as they are
    distance = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    expected = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    expected.scatter_(1, distance.topk(3, largest=False).indices, True)
    expected |= expected.T.clone()
    expected.fill_diagonal_(True)
    if graph == "shift":
        expected = expected.repeat_interleave(5, 0).repeat_interleave(5, 1)
    assert made.pretext.graph is not None
    every = torch.cartesian_prod(torch.arange(100), torch.arange(100))
    assert torch.equal(made.pretext.graph.joined(every[:, 0], every[:, 1]), expected.flatten())


def test_the_loss_is_of_one_neighbour_and_one_other() -> None:
    made = method(max_images=20, margin=0.9)
    pixels, _ = decode_all(made.pretext.wrap_source(selected(), FACTS), DataConfig())
    images = pixels.float() / 127.5 - 1
    index = torch.tensor([7, 30, 99])
    position = torch.arange(3)
    batch = Batch(
        views=[images[index]], index=index, position=position, fetch=images.__getitem__, seed=2
    )
    assert made.pretext.graph is not None
    near, far = made.pretext.graph.draw(index, seed=2, epoch=0)
    z = made.encoder(images).double().detach()
    expected = 0.0
    for i, j, k in zip(index.tolist(), near.tolist(), far.tolist(), strict=True):
        expected += float((z[i] - z[j]).square().sum()) / 2
        expected += max(0.0, 0.9 - float((z[i] - z[k]).norm())) ** 2 / 2
    zs = made.embed(made.phases[0], batch)
    total = made.loss_of(made.phases[0], zs, batch).total
    assert float(total.detach()) == pytest.approx(expected / 6, rel=1e-4)


def test_what_is_refused() -> None:
    for wrong in ({"neighbours": 0}, {"margin": 0.0}, {"digits": ()}, {"max_images": 1}):
        option = next(iter(wrong)).replace("_", "-")
        with pytest.raises(ConfigError, match=rf"--method\.{option}"):
            method(**wrong)
    with pytest.raises(ConfigError, match=r"--method\.digits: no image is of class 11 or 12"):
        selected(digits=(11, 12))
    with pytest.raises(ConfigError, match=r"no image is of class 12; .* from 0 to 9"):
        selected(digits=(4, 12))
    with pytest.raises(ConfigError, match=r"--method\.margin"):
        method(margin=1e-39)
    with pytest.raises(ConfigError, match=r"--method\.neighbours: 5 of 5 images"):
        method(max_images=5).pretext.wrap_source(selected(), FACTS)
    with pytest.raises(
        ConfigError, match=r"--method\.neighbours: with 5 an image belongs to all 6"
    ):
        method(max_images=6, graph="shift").pretext.wrap_source(selected(), FACTS)
    unlabelled = digits()
    unlabelled.labels = None
    with pytest.raises(DataError, match=r"--method\.digits: chooses images by their labels"):
        DrLIM.build_pretext(DrLIM.Config()).select(unlabelled)


@pytest.mark.parametrize(("graph", "low", "high"), [("plain", 0.75, 1.0), ("shift", 0.0, 0.5)])
def test_the_shift_can_be_read_from_one_map_and_not_from_the_other(
    graph: str, low: float, high: float, run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("--preset", "drlim-quick", "--method.graph", graph, "--optim.epochs", "5")
    quiet = ("--engine.threads", "1", "--eval.every", "0", "--log.no-tensorboard")
    done = run_ssgear("train", *words, *quiet, "--output", run)
    assert done.status == 0, done.err
    summary = json.loads((run / "summary.json").read_text())
    assert low <= summary["shift_knn"] <= high
    assert summary["classes"] == ["4", "9"]
    assert summary["num_test"] == 76
    page = (run / "report.html").read_text()
    assert "Map of moved images" in page
    for name in ("-6 px", "unmoved", "+3 px"):
        assert name in page
    assert "pushes the third away" in page and "d² / 2 on the map" in page
    own = "shift_knn" if graph == "plain" else "moved_label_knn"
    assert summary["judged_by"] == own
    assert run_ssgear("evaluate", run, "--protocol", "shifts").status == 0
    found = json.loads((run / "evaluation-digits-shifts.json").read_text())
    assert found["num_test"] == 76 and found[own] == pytest.approx(summary[own])
    assert run_ssgear("evaluate", run, "--data.source", "mini").status == 0
    found = json.loads((run / "evaluation-mini.json").read_text())
    assert found["num_test"] == 1000
