"""Every bad input: one line, exit status 2, no traceback, no run directory left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssgear.callbacks import FinalFigures, Readings
from ssgear.storage.lock import hold
from ssgear.train import main as command
from tests.engine.training import SMALL, losses, train
from tests.faults.refusals import refused

VIT = ("--model.name", "vit_tiny_patch16_224")
RESIDENT = ("--data.loader", "resident")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of twenty images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--optim.learning-rat", "1"], "--optim.learning-rat"),
        (["--preset", "quik"], "quick"),
        (["--method", "simclrr"], "simclr"),
        (["--method.temprature", "1"], "--method.temperature"),
        (["--data.source", "cifar11", "--data.path", "."], "cifar10"),
        (["--model.name", "resnet19"], "resnet18"),
        (["--method.temperature", "0"], "--method.temperature"),
        (["--method.temperature", "-1"], "--method.temperature"),
        (["--engine.precision", "fp8"], "bf16"),
        (["--engine.device", "cuda"], "cpu"),
        (["--data.path", "nowhere"], "nowhere"),
        (["--optim.batch-size", "5000"], "4000"),
        (["--optim.micro-batch", "1"], "--optim.micro-batch"),
        (
            ["--method", "gan-ssl", "--optim.micro-batch", "8"],
            "--optim.micro-batch: gan-ssl needs its batch whole",
        ),
        (["--data.augmentation", "swav-multicrop", *VIT], "of 14 pixels too, and vit_tiny"),
        (["--data.augmentation", "autoaugment", *RESIDENT], "use --data.loader torch or auto"),
        (["--method", "gan-ssl", "--data.augmentation", "autoaugment"], "use simclr, say"),
        (["--resume", "nowhere"], "nowhere"),
        (["--config", "nowhere.json"], "nowhere.json"),
        (["--deepspeed", "nowhere.json"], "nowhere.json"),
    ],
)
def test_one_line_and_nothing_left(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--engine.device" in argv and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    assert expected in refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_dali_where_it_is_not_installed(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    line = refused(capsys, "--data.loader", "dali", *options)
    assert "NVIDIA DALI is not installed; pip install " in line and "--data.loader torch" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--engine.threads", "--data.workers"])
def test_more_threads_or_processes_than_a_machine_can_carry(
    option: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A million threads ended in a segmentation fault; four thousand made two cores stand still."""
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, option, "1000000")
    assert f"{option}: 1000000 is not possible; there are " in line and "; use at most " in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(capsys, "--data.path", str(tmp_path / "empty"))


def test_an_output_directory_that_holds_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", "--optim.max-steps", "1")
    assert "--resume" in refused(capsys, *SMALL, "--output", str(tmp_path / "run"))


def test_a_directory_that_another_run_writes_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / "run"):
        line = refused(capsys, *SMALL, "--output", str(tmp_path / "run"))
    assert f"process {os.getpid()}" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_directory_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refused(capsys, *SMALL, "--output", str(tmp_path / "file" / "run"))
    assert "--output" in line and "Not a directory" in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.name", "resnt18"], "did you mean resnet18?"),
        (["--data.source", "cifar11"], "did you mean cifar10?"),
        (["--data.augmentation", "simclr-cifr"], "did you mean simclr-cifar?"),
        (["--deepspeed", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, "--dry-run", *options)


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_bad_files_are_named_counted_and_skipped(loader: str, images: Path, tmp_path: Path) -> None:
    (images / "cat" / "empty.jpg").write_bytes(b"")
    (images / "dog" / "text.png").write_text("no image")
    data = (images / "dog" / "3.png").read_bytes()
    (images / "dog" / "cut.png").write_bytes(data[: len(data) // 2])
    options = ["--data.path", str(images), "--optim.max-steps", "1", "--data.max-bad-share", "0.5"]
    options += ["--data.loader", loader, "--eval.no-final"]
    train(tmp_path / "run", *options, callbacks=(FinalFigures(Readings()),))
    notes = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all(name in notes for name in ("empty.jpg", "text.png", "cut.png"))
    bad = json.loads((tmp_path / "run" / "summary.json").read_text())["bad_files"]
    assert len(bad) == 3 and all(
        any(name in line for line in bad) for name in ("empty.jpg", "text.png", "cut.png")
    )


def test_too_many_bad_files_stop_the_run(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "cat" / "empty.jpg").write_bytes(b"")
    options = ["--data.path", str(images), "--output", str(tmp_path / "run")]
    line = refused(capsys, *SMALL, *options)
    assert "empty.jpg" in line and "--data.max-bad-share" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "drlim", "--method.digits", "0", "1"),
        ("--method", "exemplar-cnn", "--method.classes", "4"),
    ],
    ids=lambda options: options[1],
)
def test_methods_that_make_images_of_their_own_count_bad_files(
    options: tuple[str, ...], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "cat" / "empty.jpg").write_bytes(b"")
    options += ("--data.path", str(images), "--data.source", "folder", "--data.size", "16")
    options += ("--optim.batch-size", "4", "--optim.max-steps", "1", "--eval.no-final")
    options += ("--model.name", "4c3-8f", "--output", str(tmp_path / "run"))
    line = refused(capsys, *options)
    assert "1 of 3" in line and "empty.jpg" in line and "--data.max-bad-share" in line
    assert not (tmp_path / "run").exists()
    assert command(["--data.max-bad-share", "0.5", *options]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert ["empty.jpg" in line for line in summary["bad_files"]] == [True]
    assert summary["num_train"] == (4 if "exemplar-cnn" in options else 5 * 36)


def test_labels_that_disagree_with_the_folder(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("file,label\ncat/0.png,a\ncat/nothing.png,b\n")
    options = ["--data.path", str(images), "--data.labels", str(tmp_path / "labels.csv")]
    assert "labels.csv" in refused(capsys, *SMALL, *options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "JSON"),
        ('{"zero_optimisation": {"stage": 1}}', "zero_optimization"),
        ('{"train_batch_size": 64}', "--optim.batch-size"),
        ('{"fp16": {"enabled": true}}', "fp16"),
        ('{"optimizer": {"type": "LARS"}, "zero_optimization": {"stage": 1}}', "lars"),
        ('{"sparse_attention": {}}', "not supported"),
    ],
)
def test_ds_json(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text)
    argv = [*SMALL, "--deepspeed", str(path), "--output", str(tmp_path / "run")]
    assert expected in refused(capsys, *argv)
    assert not (tmp_path / "run").exists()


def test_deepspeed_that_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text("{}")
    script = (
        "import sys; sys.modules['deepspeed'] = None; from ssgear.train import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *SMALL, "--deepspeed", str(path), "--output", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "ssgear[deepspeed]" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints at steps 2 and 4."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(run, "--optim.max-steps", "4", "--checkpoint.every", "2")
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_resume_with_a_changed_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--resume", str(run), "--optim.lr", "0.5")
    assert "optim.lr" in line and "0.5" in line
    assert len(losses(run)) == 4


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_resume_on_a_damaged_checkpoint(
    damage: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints" / "step-4"
    part = folder / "group-encoder.pt"
    data = part.read_bytes()
    if damage == "truncate":
        part.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        part.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif damage == "remove":
        part.unlink()
    else:
        (folder / "manifest.json").write_text("{")
    line = refused(capsys, "--resume", str(run), "--optim.max-steps", "6")
    assert "step-4" in line
    assert len(losses(run)) == 4


def test_resume_on_a_run_without_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "checkpoints")
    assert "checkpoint" in refused(capsys, "--resume", str(run))


def test_a_checkpoint_cannot_run_code(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pickle that would create a file when loaded is refused, digest and all in order."""
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(run / "pwned"), "w"))  # type: ignore[return-value]

    part = run / "checkpoints" / "step-4" / "group-encoder.pt"
    part.write_bytes(pickle.dumps({"weights": Evil(), "optimizer": {}}))
    manifest = json.loads((part.parent / "manifest.json").read_text())
    digest = hashlib.blake2b(part.read_bytes()).hexdigest()[:32]
    manifest["files"][part.name] = {"bytes": part.stat().st_size, "digest": digest}
    (part.parent / "manifest.json").write_text(json.dumps(manifest))
    refused(capsys, "--resume", str(run), "--optim.max-steps", "6")
    assert not (run / "pwned").exists()
