"""Runs on files: killed and resumed with DALI, and files that vanish and break while training."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.errors import DataError
from ssgear.storage.checkpoint import find_latest, read_manifest
from ssgear.train import main
from tests.data.pictures import noise
from tests.engine.training import SMALL, losses, train

OPTIONS = (
    "--data.size", "16", "--optim.batch-size", "12", "--optim.warmup-epochs", "0",
    "--optim.epochs", "4", "--data.workers", "1", "--data.max-bad-share", "0.1",
)  # fmt: skip
VANISHED, DAMAGED = "07\n\udcff.jpg", "31.jpg"
"""The first has a line break and a byte that is no UTF-8."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images, thirty-six of them to train on: three steps an epoch."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        image = Image.fromarray(noise(20, 24, seed=number)).resize((40, 33))
        image.save(folder / (VANISHED if number == 7 else f"{number:02d}.jpg"))
    return folder


def resume(run: Path, *options: str, callbacks: tuple[Callback, ...] = ()) -> list[float]:
    Trainer(prepare(cli.parse(["--resume", str(run), *options])), callbacks).run()
    return losses(run)


def test_a_dali_run_killed_and_resumed_equals_uninterrupted(images: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--data.path", str(images), "--data.loader", "dali"]
    options += ["--optim.epochs", "10"]
    whole = train(tmp_path / "whole", *options)
    assert len(whole) == 30
    command = [
        sys.executable, "-m", "ssgear.train", *SMALL, *options, "--checkpoint.every", "2",
        "--eval.every", "0", "--eval.no-final", "--output", str(tmp_path / "run"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count('"train"') > 4):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(tmp_path / "run")) < len(whole)
    assert main(["--resume", str(tmp_path / "run")]) == 0
    assert losses(tmp_path / "run") == whole


class Disaster(Callback):
    """Removes one file and damages another after the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, run: Run) -> None:
        if run.step == 3:
            (self.folder / VANISHED).unlink()
            (self.folder / DAMAGED).write_bytes((self.folder / DAMAGED).read_bytes()[:400])


def notes(run: Path) -> list[str]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        line["message"] for line in lines if line["kind"] == "note" and "skipped" in line["message"]
    ]


@pytest.mark.parametrize("engine", ["torch", "dali"])
def test_files_lost_while_training(
    engine: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(images, tmp_path / "copy")
    options = [*OPTIONS, "--data.path", "images", "--data.loader", engine]
    monkeypatch.chdir(tmp_path)
    whole = train(tmp_path / "whole", *options, callbacks=(Disaster(images),))
    assert len(whole) == 12
    told = sorted(notes(tmp_path / "whole"))
    assert len(told) == 2
    assert "skipped images/07\\n\\udcff.jpg: cannot be read: No such file" in told[0]
    assert f"skipped images/{DAMAGED}: damaged" in told[1]
    assert all("of 36 while training" in line for line in told)

    shutil.rmtree(images)
    shutil.copytree(copy, images)
    short = train(
        tmp_path / "run", *options, "--optim.max-steps", "8", callbacks=(Disaster(images),)
    )
    saved = read_manifest(find_latest(tmp_path / "run"))["lost"]
    assert sorted(name for name, _ in saved) == [f"images/{VANISHED}", f"images/{DAMAGED}"]
    assert short == whole[:8]
    resumed = resume(tmp_path / "run", "--optim.max-steps", "12", callbacks=(Callback(),))
    assert resumed == whole
    assert len(notes(tmp_path / "run")) == 2, "named once"


def test_too_many_lost_files_end_the_run(images: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--data.max-bad-share", "0.03"]
    with pytest.raises(DataError) as caught:
        train(
            tmp_path / "run", *options, "--data.path", str(images), "--data.loader", "torch",
            callbacks=(Disaster(images),),
        )  # fmt: skip
    assert "2 images can no longer be read" in str(caught.value)
    assert "--data.max-bad-share allows 3 %" in str(caught.value)
