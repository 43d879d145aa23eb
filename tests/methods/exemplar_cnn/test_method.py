"""Exemplar-CNN: what is shown, the loss by hand, refusals, its final figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources.source import Source
from ssgear.errors import CheckpointError, ConfigError
from ssgear.methods.base import Facts
from ssgear.methods.exemplar_cnn.method import ExemplarCNN
from ssgear.methods.exemplar_cnn.pretext import Patches
from ssgear.methods.exemplar_cnn.transforms import PatchSpec, augment_patches
from ssgear.models.encoders import build_encoder
from tests.methods.noise import noise

QUICK = ("--preset", "exemplar-cnn-quick", "--method.classes", "64", "--model.name", "4c5-8c5-16f")
NONE = view_set("none")


def cut(source: Source, classes: int | None = 6) -> tuple[Patches, Source]:
    """Return a pretext after it has cut patches out of some images, and the patches."""
    pretext = ExemplarCNN.build_pretext(ExemplarCNN.Config(classes=classes))
    facts = Facts(augmentation=NONE, num_images=len(source), size=32)
    return pretext, pretext.wrap_source(source, facts)


def method(classes: int | None = 6, dropout: float = 0.5) -> ExemplarCNN:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="4c5-8c5-16f"), 32)
    config = ExemplarCNN.Config(classes=classes, dropout=dropout)
    pretext, _ = cut(noise(5, 48), classes)
    facts = Facts(augmentation=NONE, num_images=5, pretext=pretext)
    return ExemplarCNN.build(config, encoder, facts)


def test_the_window_holds_whatever_a_patch_can_see() -> None:
    # half of 32 times 1.4, turned by 20 degrees, and a fifth of 32 further
    reach = 16 * 1.4 * (math.cos(math.radians(20)) + math.sin(math.radians(20))) + 0.2 * 32
    made = method()
    assert made.pretext.window >= 2 * reach > made.pretext.window - 4
    (spec,) = made.view_specs(NONE)
    assert spec.side(32) == made.pretext.window


def test_patches_of_the_window_are_those_of_the_whole_image() -> None:
    """What is cut off is never seen: transforming the whole image gives the same patches."""
    made = method()
    source = noise(4, 160)
    middle = slice(80 - made.pretext.window // 2, 80 + made.pretext.window // 2)
    pixels = torch.stack([source.decode(index) for index in range(4)])
    spec = PatchSpec()
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (spec.mean, spec.std))
    view = (pixels[:, :, middle, middle] / 255 - mean) / std
    index = torch.tensor([3, 9, 4, 1])
    batch = Batch(views=[view], index=index, position=torch.arange(4), seed=5, epoch=7)
    whole = augment_patches(pixels, spec, size=32, seed=5, epoch=7, indices=index, view=0)
    torch.testing.assert_close(made.pretext.seen(batch)[0], whole, atol=2e-3, rtol=0)


def test_the_loss_is_the_cross_entropy_of_the_patches_own_classes() -> None:
    made = method(dropout=0.25)
    labels = torch.tensor([4, 0, 5])
    position = torch.arange(3)
    batch = Batch(views=[torch.randn(3, 3, 72, 72)], index=labels, position=position, labels=labels)
    zs = made.embed(made.phases[0], batch)
    kept = batch.draw("dropout 0", (16,)) >= 0.25
    assert 0 < int(kept.sum()) < 48
    features = made.encoder(made.pretext.seen(batch)[0]).double() * kept / 0.75
    scores = features @ made.classifier.weight.double().T + made.classifier.bias.double()
    expected = (scores.logsumexp(1) - scores[torch.arange(3), labels]).mean()
    terms = made.loss_of(made.phases[0], zs, batch)
    torch.testing.assert_close(terms.total.double(), expected, atol=1e-5, rtol=0)
    made.eval()
    scores = made.classifier(made.encoder(made.pretext.seen(batch)[0]))
    torch.testing.assert_close(made.embed(made.phases[0], batch).online[0], scores)


def test_as_many_classes_as_can_be_had_by_default() -> None:
    pretext, patches = cut(noise(5, 32), classes=None)
    assert pretext.num_classes == len(patches) == 5
    many = Facts(augmentation=NONE, num_images=10**6, size=32)
    pretext.wrap_source(noise(5, 32), many)
    assert pretext.num_classes == 8000


@pytest.mark.parametrize("classes", [10**13, 10**17])
def test_far_more_classes_than_patches_are_refused(
    classes: int, run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    given = ("--method", "exemplar-cnn", "--method.classes", classes, "--output", tmp_path / "run")
    outcome = run_ssgear("train", *given)
    assert outcome.status == 2
    assert f"--method.classes: {classes} patches of 32 x 32 pixels" in outcome.complaint
    assert not (tmp_path / "run").exists()


def test_more_classes_than_patches_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--method\.classes: 6 patches .* these 5 images hold 5 .*; use fewer"
    ):
        cut(noise(5, 32))
    assert len(cut(noise(5, 48))[1]) == 6
    with pytest.raises(ConfigError, match=r"these 5 images hold 0 "):
        cut(noise(5, 24), classes=None)
    for wrong in ({"classes": 1}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match=rf"--method\.{next(iter(wrong))}"):
            ExemplarCNN.Config(**wrong)


def test_a_run_goes_on_with_its_own_patches_only() -> None:
    made = method(classes=5)
    made.after_load()
    made.get_buffer("patches")[0, 1] += 1
    with pytest.raises(CheckpointError, match="--resume: other patches were drawn"):
        made.after_load()


def test_final_figures_are_of_labelled_images(
    run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    small = (
        "--optim.max-steps",
        "2",
        "--eval.max-images",
        "200",
        "--eval.final-images",
        "200",
        "--engine.threads",
        "1",
    )
    done = run_ssgear("train", *QUICK, "--output", run, *small)
    assert done.status == 0, done.err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_train"] == 64
    assert len(summary["classes"]) == 10
    assert 0 < summary["baselines"]["untrained"]["linear_probe_quadrants"] < 1
    page = (run / "report.html").read_text()
    assert "which patch each of them is of" in page
    assert "Linear probe on all layers, in quadrants" in page
    words = ("--protocol", "quadrants", "--max-images", "100", "--device", "cpu")
    done = run_ssgear("evaluate", run, *words, "--data.size", "40")
    assert done.status == 0, done.err
    for words, complaint in (
        (
            ("--protocol", "folds"),
            "--protocol folds: is for the predefined folds of a published set",
        ),
        (("--protocol", "folds", "--max-images", "50"), "--max-images: --protocol folds needs"),
    ):
        refused = run_ssgear("evaluate", run, *words, "--device", "cpu")
        assert refused.status == 2
        assert complaint in refused.complaint
