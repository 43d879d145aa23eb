"""Final figures: from all images, from files that are kept, and without a file that vanished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from ssgear.callbacks import FinalFigures, Readings
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.evaluation.results import read_per_image
from tests.engine.training import train

ONE = ("--optim.max-steps", "1", "--eval.every", "0", "--eval.max-images", "50")


def figures(run: Path, *options: str, callbacks: tuple[Callback, ...] = ()) -> dict[str, Any]:
    train(run, *ONE, *options, callbacks=(*callbacks, FinalFigures(Readings())))
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for row in range(40):
            noise = torch.randint(0, 50, (16, 16, 3), generator=generator) + level
            file = tmp_path / "photos" / name / f"{row:02}.png"
            Image.fromarray(noise.byte().numpy()).save(file)
    return tmp_path / "photos"


def test_they_are_of_all_images_and_say_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = figures(run)
    probe = summary["details"]["linear_probe"]
    assert (probe["num_train"], probe["num_test"]) == (4000, 1000)
    assert summary["num_test"] == 1000 and probe["interval"][0] < summary["linear_probe"]
    assert summary["baselines"]["untrained"]["details"]["linear_probe"]["num_train"] == 4000
    assert summary["baselines"]["pixels"]["details"]["knn"]["num_test"] == 1000
    assert sum(summary["time_s"].values()) == pytest.approx(summary["wall_time_s"], abs=0.5)
    images, per_image = read_per_image(run / "summary.json")
    assert images == summary["test_images"] != ""
    right = per_image["linear_probe"].double().mean()
    assert float(right) == pytest.approx(summary["linear_probe"])
    assert len([*(run / "features").glob("*.npy")]) == 3  # training, test images, layers of these


def test_fewer_images_where_the_user_says_so(tmp_path: Path) -> None:
    summary = figures(tmp_path / "run", "--eval.final-images", "120")
    probe = summary["details"]["linear_probe"]
    assert (probe["num_train"], probe["num_test"]) == (120, 120)


def test_a_disk_without_room_costs_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--eval.final-images", "120")
    usual = figures(tmp_path / "usual", *few)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    summary = figures(tmp_path / "full", *few)
    assert not (tmp_path / "full" / "features").exists()
    assert "too little space" in (tmp_path / "full" / "metrics.jsonl").read_text()
    for name in ("linear_probe", "knn", "map"):
        assert summary[name] == usual[name]
    assert summary["baselines"] == usual["baselines"]


def test_a_file_that_vanished_in_training_is_left_out(photos: Path, tmp_path: Path) -> None:
    class Vanish(Callback):
        def on_step(self, run: Run) -> None:
            for source in (run.source, run.test):
                assert source is not None
                Path(source.full_name(0)).unlink()

    options = ("--data.path", str(photos), "--data.loader", "torch", "--data.workers", "0")
    more = ("--data.test-share", "0.5", "--optim.batch-size", "8", "--data.max-bad-share", "0.5")
    summary = figures(tmp_path / "run", *options, *more, callbacks=(Vanish(),))
    probe = summary["details"]["linear_probe"]
    assert (probe["num_train"], probe["num_test"]) == (39, 39)
    assert summary["linear_probe"] > 0.9
