"""Sets of views that are not two alike, through the real trainer and its report's pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssgear.callbacks.report import view_grid
from ssgear.config import cli
from ssgear.data.augment import augment
from ssgear.data.augment.spec import view_set
from ssgear.engine.build import prepare
from ssgear.engine.trainer import Trainer
from ssgear.kernels import philox
from ssgear.report.contents import Contents
from ssgear.report.report import write_report
from tests.engine.training import SMALL, losses
from tests.methods.gan import ROWS, SIDE, build, make_batch


@pytest.mark.parametrize(
    ("name", "sides", "loader"),
    [
        ("swav-multicrop", [32] * 2 + [14] * 6, "resident"),
        ("autoaugment-cifar", [32] * 2, "torch"),
    ],
)
def test_a_set_trains(name: str, sides: list[int], loader: str, tmp_path: Path) -> None:
    options = ["--data.augmentation", name, "--optim.max-steps", "2", "--data.workers", "0"]
    run = prepare(cli.parse([*SMALL, *options, "--output", str(tmp_path / "run")]))
    assert list(run.plan.sides) == sides and run.loader.name == loader
    assert run.method.encoder.training
    assert run.method.view_specs(view_set("byol")) == view_set("byol")
    assert run.method.view_specs(view_set("simclr")) == view_set("simclr") * 2
    Trainer(run, ()).run()
    assert len(losses(tmp_path / "run")) == 2
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    views = view_grid(run, images)
    shown = (sides * 2)[: max(4, len(sides))]
    assert [[view.shape for view in row] for row in views.rows] == [
        [(side, side, 3) for side in (32, *shown)]
    ] * 3
    assert write_report(tmp_path / "run", Contents(views=views)).is_file()


def test_gradient_caching_takes_views_of_several_sizes(tmp_path: Path) -> None:
    def train(*options: str) -> list[float]:
        output = tmp_path / f"run{len(options)}"
        common = ["--data.augmentation", "swav-multicrop", "--optim.max-steps", "2"]
        common += ["--optim.batch-size", "10"]
        launch = cli.parse([*SMALL, *common, "--output", str(output), *options])
        Trainer(prepare(launch), ()).run()
        return losses(output)

    assert train("--optim.micro-batch", "4") == pytest.approx(train(), rel=1e-4)


def test_synthetic_images_are_seen_as_the_views_of_their_number() -> None:
    method = build()
    method.specs = view_set("byol")
    fake = torch.rand(ROWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = make_batch(method, "encoder")
    views = [method._view(batch, fake, view) for view in range(2)]
    key = philox.derive_key(batch.seed, "synthetic", batch.phase, batch.step, batch.repeat)
    keyed = {"seed": key % 2**32, "epoch": batch.epoch, "indices": batch.position}
    for view, spec in enumerate(view_set("byol")):
        expected = augment((fake + 1) / 2, spec, size=SIDE, view=view, **keyed)
        assert torch.equal(views[view], expected)
