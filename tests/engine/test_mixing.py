"""Training on X, Z or both: what equals what, on a few small images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config import cli
from ssgear.data.sources import Source
from ssgear.engine.build import prepare
from ssgear.engine.trainer import Trainer
from ssgear.errors import CheckpointError, ConfigError, DataError
from ssgear.methods.base import Facts, Method, Pretext
from ssgear.storage.checkpoint import find_latest, read_manifest
from tests.data.view_stores import write_store
from tests.engine.training import losses, train

SMALL = (
    "--data.size", "16", "--optim.batch-size", "12", "--optim.warmup-epochs", "0",
    "--optim.epochs", "3", "--data.workers", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images: three steps of twelve an epoch."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(40):
        noise = np.random.default_rng(1000 + number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), 11, size=16)


def run(output: Path, images: Path, *options: str) -> list[float]:
    return train(output, "--data.path", str(images), *SMALL, *options)


def mixed(synthetic: Path, ratio: float) -> tuple[str, ...]:
    return ("--data.synthetic", str(synthetic), "--data.synthetic-ratio", str(ratio))


def resume(run: Path, *options: str) -> list[float]:
    Trainer(prepare(cli.parse(["--resume", str(run), *options])), ()).run()
    return losses(run)


def test_zero_equals_the_run_without_a_store_and_others_do_not(
    images: Path, synthetic: Path, tmp_path: Path
) -> None:
    plain = run(tmp_path / "plain", images)
    assert len(plain) == 9
    assert run(tmp_path / "zero", images, *mixed(synthetic, 0)) == plain
    columns = [run(tmp_path / f"{r}", images, *mixed(synthetic, r)) for r in (0.5, 1.0)]
    assert len({tuple(column) for column in (plain, *columns)}) == 3
    assert {len(column) for column in columns} == {9}
    meta = read_manifest(find_latest(tmp_path / "0.5"))
    assert (meta["num_images"], meta["num_synthetic"]) == (36, 11)
    assert meta["images_seen"] == 9 * 12
    default = run(tmp_path / "default", images, "--data.synthetic", str(synthetic))
    assert default == columns[0]


def test_z_alone_does_not_depend_on_the_real_images(
    images: Path, synthetic: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in images.iterdir():
        Image.new("RGB", (16, 16), "grey").save(other / file.name)
    alone = [
        run(tmp_path / f"run-{folder.name}", folder, *mixed(synthetic, 1))
        for folder in (images, other)
    ]
    assert alone[0] == alone[1]


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_a_resumed_run_equals_one_that_never_stopped(
    loader: str, images: Path, synthetic: Path, tmp_path: Path
) -> None:
    options = (*mixed(synthetic, 0.4), "--data.loader", loader)
    whole = run(tmp_path / "whole", images, *options, "--optim.max-steps", "9")
    run(tmp_path / "part", images, *options, "--optim.max-steps", "4")
    assert resume(tmp_path / "part", "--optim.max-steps", "9") == whole


def test_a_store_that_changed_is_refused_on_resume(images: Path, tmp_path: Path) -> None:
    synthetic = write_store(tmp_path / "store", 5, size=16)
    run(tmp_path / "run", images, *mixed(synthetic, 0.5), "--optim.max-steps", "4")
    write_store(tmp_path / "store", 8, size=16)
    with pytest.raises(CheckpointError, match="with 5 synthetic images, now there are 8"):
        resume(tmp_path / "run", "--optim.max-steps", "9")
    (synthetic / "000001.tar").unlink()
    with pytest.raises(DataError, match=r"--data\.synthetic: .* holds 5 of 8 images; finish it"):
        run(tmp_path / "new", images, *mixed(synthetic, 0.5))
    assert not (tmp_path / "new").exists()


def test_the_log_says_what_is_mixed(
    images: Path, synthetic: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "run", images, *mixed(synthetic, 0.25), "--optim.max-steps", "1")
    out, err = capfd.readouterr()
    assert "25 % of the images seen are synthetic, from 11" in out + err
    assert "copies of an image" not in out + err  # 3 of a batch are from 11
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["synthetic_ratio"] == 0.25


def test_copies_within_a_batch_are_told_of(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = write_store(tmp_path / "few", 2, size=16)
    run(tmp_path / "run", images, *mixed(few, 0.5), "--optim.max-steps", "1")
    out, err = capfd.readouterr()
    assert "2 synthetic images are fewer than the 6 of a batch" in out + err


def test_a_method_with_a_set_of_its_own_or_a_generator_takes_no_synthetic_images(
    images: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EveryOther(Pretext):
        def wrap_source(self, source: Source, facts: Facts) -> Source:
            return source.subset(torch.arange(0, len(source), 2))

    monkeypatch.setattr(Method, "build_pretext", lambda config: EveryOther())
    with pytest.raises(ConfigError, match=r"--data\.synthetic: this method takes real images only"):
        run(tmp_path / "run", images, *mixed(synthetic, 0.5))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="takes real images only"):
        run(tmp_path / "run", images, *mixed(synthetic, 0.5), "--method", "tests.engine.toy:Toy")
    assert not (tmp_path / "run").exists()
    assert len(run(tmp_path / "alone", images, "--optim.epochs", "1")) == 3
    none = (*mixed(synthetic, 0.0), "--method", "tests.engine.toy:Toy", "--optim.max-steps", "1")
    assert len(run(tmp_path / "none", images, *none)) == 1  # no image of the store is taken
