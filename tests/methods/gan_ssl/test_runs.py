"""GAN + SSL as a run: two ranks equal one, DeepSpeed equals torch, resuming is bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssgear.callbacks.samples import Samples
from ssgear.config import cli
from ssgear.engine.build import prepare, resolve
from ssgear.engine.trainer import Trainer
from ssgear.errors import ConfigError, TrainingError
from ssgear.storage.checkpoint import find_latest, load_tensors
from tests.engine.training import SMALL as QUICK
from tests.engine.training import assert_same, ds_json, losses
from tests.methods.gan import SMALL, train_gan
from tests.ranks import Ranks

STEPS = ("--optim.max-steps", "5", "--optim.batch-size", "16")
INSTANCE = (
    "--method.condition", "instance", "--method.adversarial", "hinge", "--method.critic-augment",
    "ada", "--method.n-critic", "2", "--method.r1-gamma", "1", "--method.r1-interval", "2",
)  # fmt: skip
STYLES = (
    "--method.generator", "stylegan2", "--method.generator-norm", "batch",
    "--method.generator-width", "1", "--method.critic-width", "1",
    "--method.adversarial", "logistic", "--method.r1-gamma", "0.1", "--method.condition",
    "label", "--method.path-length", "1", "--method.style-mixing", "0.5", "--method.n-critic", "1",
)  # fmt: skip
WGAN = ("--method.n-critic", "2", "--method.aux-sides", "8", "--method.aux-weight", "0.5")
SETTINGS = {"wgan": WGAN, "instance": INSTANCE, "stylegan2": STYLES}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one process."""
    found = {}
    for name in ("wgan", "instance"):
        found[name] = tmp_path_factory.mktemp(name) / "run"
        train_gan(found[name], *SETTINGS[name], *STEPS)
    return found


def buffers(run: Path) -> dict[str, Tensor]:
    return load_tensors(find_latest(run) / "rank-0.pt")["buffers"]


def compare(run: Path, expected: Path) -> None:
    """Loss columns, and what only buffers hold: averages, p, phi."""
    column = losses(run)
    assert column == pytest.approx(losses(expected), rel=TOLERANCE, abs=TOLERANCE)
    theirs = buffers(expected)
    for name, value in buffers(run).items():
        if name.startswith("game.") or name.startswith("phi"):
            # Adam turns rounding into a step where a gradient is near zero: a few steps' worth
            assert torch.allclose(value, theirs[name], atol=2e-4), name


@pytest.mark.parametrize(
    ("name", "stage"),
    [("wgan", None), ("wgan", 0), ("wgan", 1), ("wgan", 2), ("instance", None), ("instance", 2)],
)
def test_two_ranks_and_every_stage_equal_one_process(
    name: str, stage: int | None, expected: dict[str, Path], pair: Ranks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = () if stage is None else ("--deepspeed", str(ds_json(tmp_path, stage)))
    pair.run(train_gan, run, *SETTINGS[name], *STEPS, *options)
    compare(run, expected[name])


def test_accumulation_equals_the_whole_batch(
    expected: dict[str, Path], pair: Ranks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    path = ds_json(tmp_path, 1, train_micro_batch_size_per_gpu=4, gradient_accumulation_steps=2)
    pair.run(train_gan, run, *WGAN, *STEPS, "--deepspeed", str(path))
    compare(run, expected["wgan"])


def test_zero_3_is_refused_with_the_reason(pair: Ranks, tmp_path: Path) -> None:
    options = (*STEPS, "--deepspeed", str(ds_json(tmp_path, 3)))
    with pytest.raises(AssertionError, match="penalty"):
        pair.run(train_gan, tmp_path / "run", *options)


HINGE = ("--method.adversarial", "hinge")
LOGISTIC = ("--method.adversarial", "logistic")
NO_GAN = ("--method.adversarial-weight", "0", "--method.generator-ssl-weight", "0")
PENALTY = "stage 3 frees weights that the gradient penalty still differentiates; use stage 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method.adversarial", "wgan"), PENALTY),
        ((*LOGISTIC, "--method.r1-gamma", "1"), PENALTY),
        ((*HINGE, "--method.generator", "stylegan2", "--method.path-length", "1"), PENALTY),
        (HINGE, "whole weights that gan-ssl's averaged generator follows; use stage 2"),
        ((*NO_GAN, "--method.ssl", "moco"), "gan-ssl's momentum encoder follows; use stage 2"),
        (NO_GAN, None),
    ],
)
def test_zero_3_is_refused_with_the_reason_of_these_settings(
    options: tuple[str, ...], message: str | None, tmp_path: Path
) -> None:
    words = ("--method", "gan-ssl", *options, "--deepspeed", str(ds_json(tmp_path, 3)))
    launch = cli.parse([*words, "--engine.device", "cpu"])
    if message is None:
        assert resolve(launch).optim.name == "adamw"
        return
    with pytest.raises(ConfigError) as caught:
        resolve(launch)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("name", SETTINGS)
def test_resuming_is_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Everything: weights, every optimiser, averages, p, phi, neighbours, the samples kept."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = (*SETTINGS[name], "--optim.batch-size", "16", "--checkpoint.every", "3")
    arguments = [*QUICK, *SMALL, *options, "--optim.epochs", "1"]
    for output, stops in ((whole, ("6",)), (parts, ("3", "6"))):
        first = [*arguments, "--output", str(output), "--optim.max-steps", stops[0]]
        Trainer(prepare(cli.parse(first)), (Samples(),)).run()
        for stop in stops[1:]:
            again = cli.parse(["--resume", str(output), "--optim.max-steps", stop])
            Trainer(prepare(again), (Samples(),)).run()
    assert losses(parts) == losses(whole) and len(losses(whole)) == 6
    one, two = find_latest(whole), find_latest(parts)
    for file in sorted(path.name for path in one.glob("*.pt")):
        assert_same(load_tensors(one / file), load_tensors(two / file), file)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    """Two poisoned critic steps are left out; more in a row than allowed end the run."""
    for poisoned, ends in ((2, False), (4, True)):
        output = tmp_path / str(poisoned)
        options = (*WGAN, *STEPS, "--method.max-skipped", "3", "--checkpoint.every", "1")
        run = prepare(cli.parse([*QUICK, *SMALL, *options, "--output", str(output)]))
        inner, count = run.method.loss, 0

        def loss(phase, batch, inner=inner, limit=poisoned):  # type: ignore[no-untyped-def]
            nonlocal count
            terms = inner(phase, batch)
            if phase.name == "critic" and batch.step >= 1:
                count += 1
                if count <= limit:
                    terms.total = terms.total * torch.nan
            return terms

        count = 0
        run.method.loss = loss  # type: ignore[method-assign]
        trainer = Trainer(run, ())
        if ends:
            with pytest.raises(TrainingError, match=r"phase 'critic'.*last checkpoint is step-"):
                trainer.run()
        else:
            trainer.run()
            assert run.step == 5
        notes = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        told = [line["message"] for line in notes if line["kind"] == "note"]
        assert sum("step skipped" in line for line in told) == min(poisoned, 3)
        assert all(torch.isfinite(weight).all() for weight in run.method.parameters())
        shutil.rmtree(output)
