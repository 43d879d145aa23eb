"""SimSiam against its formula in float64, the stopped gradient, the predictor's learning rate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.callbacks import Readings
from ssgear.config import cli
from ssgear.config.schema import OptimConfig
from ssgear.distributed import World
from ssgear.engine.build import prepare
from ssgear.engine.runtime import TorchRuntime
from ssgear.errors import ConfigError
from ssgear.evaluation.health import YOUNG_STEPS
from ssgear.methods.simsiam import SimSiam
from ssgear.report.reading import read_run
from ssgear.report.verdict import judge
from tests.engine.training import SMALL as TINY_RUN
from tests.methods.tiny import batch, build, gradients, same, unit

SMALL: dict[str, Any] = {"projector_dims": (16, 5), "predictor_dim": 3}


def formula(method: SimSiam, *, stop: bool) -> Tensor:
    """Return the loss; where nothing stops, gradients go to the targets too."""
    zs = [method.projector(method.encoder(view)) for view in batch().views]
    ps = [unit(method.predictor(z)) for z in zs]
    ts = [unit(z.detach() if stop else z) for z in zs]
    return -((ps[0] * ts[1]).sum(1).mean() + (ps[1] * ts[0]).sum(1).mean()) / 2


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    method, twin = build("simsiam", **SMALL), build("simsiam", **SMALL)
    terms, expected = method.loss(method.phases[0], batch()), formula(twin, stop=True)
    torch.testing.assert_close(terms.total.double(), expected, rtol=1e-6, atol=1e-7)
    found = gradients(method, terms.total)
    same(found, gradients(twin, expected))
    assert all(grad is not None for grad in found.values())
    twin = build("simsiam", **SMALL)
    free = gradients(twin, formula(twin, stop=False))
    name = "projector.0.weight"
    assert not torch.allclose(free[name], found[name], rtol=1e-2)
    # the predictor sees predictions alone: to stop or not is all one to it
    torch.testing.assert_close(free["predictor.0.weight"], found["predictor.0.weight"])


def test_targets_get_no_gradient() -> None:
    method = build("simsiam", **SMALL)
    zs = method.embed(method.phases[0], batch())
    assert all(z.requires_grad for z in zs.online) and len(zs.online) == 2
    assert not any(z.requires_grad for z in zs.targets) and len(zs.targets) == 2
    method.loss_of(method.phases[0], zs, batch()).total.backward()


@pytest.mark.parametrize("constant", [True, False])
def test_the_predictor_keeps_its_learning_rate(constant: bool) -> None:
    method = build("simsiam", **SMALL, constant_predictor_lr=constant)
    runtime = TorchRuntime(method, OptimConfig(name="sgd", lr=0.5), World())
    lr_of = {}
    for step, factor in ((0, 0.1), (10, 1.0), (55, 0.5), (99, 0.0003)):
        runtime.schedule(method.phases[0], step, 100, 10)
        for group in runtime.optimizer("encoder").param_groups:
            for weight in group["params"]:
                lr_of[id(weight)] = group["lr"]
        for name, weight in method.named_parameters():
            kept = constant and name.startswith("predictor.")
            assert lr_of[id(weight)] == pytest.approx(0.5 * (1.0 if kept else factor), abs=1e-4)


def test_a_collapse_is_told_with_its_usual_cause(tmp_path: Path) -> None:
    """Predictions in one point, of features that are fine: what shows it is named, and the cause.

    In the log as in the report, which has no other mends for a method than its own.
    """
    argv = [
        *TINY_RUN[2:],
        "--preset",
        "simsiam-tiny",
        "--eval.max-images",
        "9",
        "--eval.final-images",
        "9",
    ]
    run = prepare(cli.parse([*argv, "--output", str(tmp_path / "run")]))
    with torch.no_grad():
        run.method.predictor[-1].weight.zero_()
    run.step = YOUNG_STEPS  # before, embeddings are not judged
    Readings().read(run)
    run.log.close()
    found = read_run(tmp_path / "run")
    (told,) = [note for note in found.notes if "collapsed" in note]
    cause = "usual cause is a predictor that lags behind"
    assert re.match(r"the features have collapsed \(uniformity -?0\.000\): .* apart; Sim", told)
    assert cause in told
    (finding, *_) = judge(found, run.method.card).findings
    assert finding.level == "bad" and cause in finding.text and "temperature" not in finding.text
    assert "effective rank" not in finding.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"projector_dims": (5, 0)}, "--method.projector-dims: (5, 0) is not possible"),
        ({"predictor_dim": -1}, "--method.predictor-dim: -1 is not possible; use 1 or more"),
    ],
)
def test_refusals(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimSiam.Config(**settings)
    assert str(caught.value).startswith(said)
