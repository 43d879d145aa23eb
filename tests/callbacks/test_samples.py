"""What is looked at of a generator: when, what is kept, warnings, and the distances at the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssgear.callbacks.samples import SEED, Samples
from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.evaluation import frechet_distance
from ssgear.evaluation.features import extract
from ssgear.models.gan.generators import load_generator
from ssgear.models.gan.sampling import sample
from ssgear.report.contents import Contents
from ssgear.report.contents import Samples as Shown
from ssgear.report.report import write_report
from tests.engine.training import SMALL as QUICK
from tests.methods.gan import SMALL

ALONE = ("--method", "gan-ssl", "--method.ssl-options", "projector_dims=16,8")


def trained(
    output: Path, *options: str, steps: int = 40, method: tuple[str, ...] = SMALL
) -> tuple[Run, Samples]:
    arguments = [*QUICK, *method, "--optim.batch-size", "100", "--optim.epochs", "1", *options]
    run = prepare(cli.parse([*arguments, "--optim.max-steps", str(steps), "--output", str(output)]))
    samples = Samples()
    Trainer(run, (samples,)).run()
    return run, samples


@pytest.fixture
def few(tmp_path: Path) -> tuple[str, ...]:
    """Options for 240 images of noise, 40 of them for tests: 40 steps of 5 are an epoch."""
    draw = np.random.default_rng(0)
    for number in range(240):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    share = ("--data.test-share", str(1 / 6), "--data.size", "32", "--data.workers", "0")
    return ("--data.path", str(tmp_path / "images"), *share, "--optim.batch-size", "5")


def test_looks_and_distances(
    few: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssgear.callbacks.samples.COMPARED", 36)  # not all that there are
    run, samples = trained(tmp_path / "run", "--method.n-critic", "1", *few)
    assert run.total_steps == 40
    steps = [step for step, _ in samples.looks]
    assert steps == list(range(2, 41, 2))  # every twentieth of the run, the end among them
    assert samples.early is not None and samples.early.shape == (36, 3, 32, 32)
    found = samples.contents
    assert found is not None
    images, labels = samples.real(run)
    assert run.method.generator is not None
    final = run.method.generator.samples(images, labels, seed=SEED)
    assert np.array_equal(found.steps[-1][1], final.permute(0, 2, 3, 1).numpy())
    encoder = run.inference_encoder()

    def distance(made: Tensor) -> float:
        return frechet_distance(extract(encoder, made), extract(encoder, images))

    assert found.frechet["at the end"] == pytest.approx(distance(final), rel=1e-6)
    early = found.frechet["at 5 % of training"]
    assert early == pytest.approx(distance(samples.early), rel=1e-6)
    assert run.results.generator["frechet_own_encoder_at_5_percent"] == early
    picture = Image.open(tmp_path / "run" / "samples" / "step-40.png")
    assert picture.size == (8 * 32, 5 * 32)  # 36 of at most 64
    tile = np.asarray(picture)[32:64, :32]  # the ninth sample
    assert np.array_equal(tile, found.steps[-1][1][8])
    saved = load_generator(tmp_path / "run")  # the average, which is what was looked at
    assert torch.allclose(sample(saved, 5, SEED), sample_of(run, 5), atol=1e-5)
    page = write_report(run.directory, Contents(samples=found)).read_text()
    assert "What the generator makes" in page and "step 40" in page and "not FID" in page


def test_a_run_that_was_cut_short_names_the_step(few: tuple[str, ...], tmp_path: Path) -> None:
    """--optim.max-steps leaves the schedule as it is, so 5 % of it are not 5 % of the run."""
    run, samples = trained(tmp_path / "run", "--method.n-critic", "1", *few, steps=3)
    assert run.total_steps == 40
    figures = run.results.generator
    assert "frechet_own_encoder_at_5_percent" not in figures
    early = figures["frechet_own_encoder_at_step_2"]
    assert samples.contents is not None
    assert samples.contents.frechet == {
        "at step 2 of 3": early, "at the end": figures["frechet_own_encoder"],
    }  # fmt: skip


def sample_of(run: Run, count: int) -> Tensor:
    game = run.method.game  # type: ignore[union-attr]
    with game.average.applied():  # type: ignore[operator,union-attr]
        return sample(game.generator, count, SEED)  # type: ignore[arg-type,union-attr]


def test_a_method_without_a_generator_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "run"
    off = ("--method.adversarial-weight", "0", "--method.generator-ssl-weight", "0")
    run, samples = trained(output, *off, steps=3, method=ALONE)
    assert not samples.looks and samples.contents is None and not run.results.generator
    assert not (output / "samples").exists()


def test_a_collapse_is_told_once(tmp_path: Path) -> None:
    """Weights of zero make one image of all noise."""
    output = tmp_path / "run"
    arguments = [*QUICK, *SMALL, "--optim.batch-size", "100", "--optim.epochs", "1"]
    run = prepare(cli.parse([*arguments, "--output", str(output), "--method.n-critic", "1"]))
    samples = Samples()
    with torch.no_grad():
        for average in run.method.game.average.average().values():  # type: ignore[union-attr]
            average.zero_()
    for run.step in (2, 4, 8, 12):
        samples.on_step(run)
    run.log.close()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["kind"] == "note" and "collapsed" in line["message"]]
    assert [line["step"] for line in told] == [8]


def ended(output: Path, *options: str) -> tuple[Run, Shown]:
    """What the callback leaves of a run that was stopped before its first step."""
    run = prepare(cli.parse([*QUICK, *SMALL, *options, "--output", str(output)]))
    samples = Samples()
    samples.on_end(run, "stopped")
    run.log.close()
    assert samples.contents is not None
    return run, samples.contents


@pytest.mark.parametrize("condition", ["none", "label", "instance"])
def test_positives_stand_side_by_side(condition: str, tmp_path: Path) -> None:
    """Without augmentation a view is the image, so that it can be told which one is where."""
    options = ("--method.condition", condition)
    plain = ("--data.augmentation", "none", "--data.min-scale", "None")
    run, found = ended(tmp_path / "plain", *options, *plain)
    assert found.pairs is not None
    pairs = found.pairs.images
    assert pairs.shape == (12, 2, 32, 32, 3) and pairs.dtype == np.uint8
    images, labels = Samples().real(run)
    assert run.method.generator is not None
    made = run.method.generator.samples(
        images[:64], None if labels is None else labels[:64], seed=SEED
    )
    left = made if condition == "none" else images
    for place, wanted in enumerate((left, made)):
        pixels = wanted[:12].permute(0, 2, 3, 1).numpy().astype(int)
        assert np.abs(pairs[:, place] - pixels).max() <= 1, place
    run, found = ended(tmp_path / "augmented", *options)
    assert found.pairs is not None
    drawn = found.pairs.images
    assert (drawn[:, 0] != drawn[:, 1]).any(axis=(1, 2, 3)).all()
    page = write_report(run.directory, Contents(samples=found)).read_text()
    said = "Two views of each synthetic image" if condition == "none" else "Left a view of a real"
    assert said in page and page.count('<div class="pair">') == 12


def test_where_no_ssl_loss_sees_synthetic_images_there_are_no_pairs(tmp_path: Path) -> None:
    alone = ("--method.generator-ssl-weight", "0", "--method.phi", "constant")
    run, found = ended(tmp_path / "run", *alone, "--method.no-synthetic-rows")
    assert found.pairs is None
    assert "side by side" not in write_report(run.directory, Contents(samples=found)).read_text()
