"""Training on stored views of the images: what equals what, and what is refused."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from ssgear.callbacks.report import batch_grid
from ssgear.config import cli
from ssgear.data.augment import AugmentSpec
from ssgear.data.sources import Source
from ssgear.engine.build import prepare
from ssgear.engine.run import Run
from ssgear.engine.trainer import Trainer
from ssgear.errors import CheckpointError, ConfigError, DataError
from ssgear.methods.base import Facts, Method, Pretext
from ssgear.methods.simclr import SimCLR
from ssgear.storage.checkpoint import find_latest, read_manifest
from tests.data.view_stores import folder, names_of, samples, view_store, write, write_store
from tests.engine.training import SMALL, losses, train

OPTIONS = (
    "--data.size", "16", "--data.test-share", "0", "--optim.batch-size", "12", "--data.workers",
    "0", "--optim.warmup-epochs", "0", "--optim.epochs", "3",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images: three steps of twelve an epoch."""
    return folder(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return view_store(tmp_path_factory.mktemp("store"), images, up=16)


def run(output: Path, images: Path, *options: str) -> list[float]:
    return train(output, "--data.path", str(images), *OPTIONS, *options)


def prepared(output: Path, images: Path, *options: str) -> Run:
    words = [*SMALL, "--output", str(output), "--data.path", str(images), *OPTIONS, *options]
    return prepare(cli.parse(words))


def mixed(store: Path, probability: float, policy: str = "any") -> tuple[str, ...]:
    return (
        "--views.store", str(store), "--views.probability", str(probability),
        "--views.policy", policy,
    )  # fmt: skip


def resume(run: Path, *options: str) -> list[float]:
    Trainer(prepare(cli.parse(["--resume", str(run), *options])), ()).run()
    return losses(run)


def test_zero_equals_the_run_without_a_store_and_others_do_not(
    images: Path, store: Path, tmp_path: Path
) -> None:
    few = ("--optim.max-steps", "3")
    plain = run(tmp_path / "plain", images, *few)
    assert len(plain) == 3
    assert run(tmp_path / "zero", images, *mixed(store, 0), *few) == plain
    columns = [
        run(tmp_path / policy, images, *mixed(store, 0.5, policy), *few)
        for policy in ("second-only", "any", "pair")
    ]
    assert len({tuple(column) for column in (plain, *columns)}) == 4
    meta = read_manifest(find_latest(tmp_path / "pair"))
    assert (meta["num_images"], meta["num_stored"], meta["images_seen"]) == (40, 120, 3 * 12)


def test_both_engines_train_alike(images: Path, store: Path, tmp_path: Path) -> None:
    options = (*mixed(store, 0.5), "--optim.max-steps", "4")
    columns = [
        run(tmp_path / loader, images, *options, "--data.loader", loader)
        for loader in ("resident", "torch")
    ]
    assert columns[0] == pytest.approx(columns[1], abs=1e-4)


@pytest.mark.parametrize("loader", ["resident", "dali", "torch"])
def test_a_resumed_run_equals_one_that_never_stopped(
    loader: str, images: Path, store: Path, tmp_path: Path
) -> None:
    synthetic = write_store(tmp_path / "z", 11, size=16)
    options = (
        *mixed(store, 0.5), "--data.loader", loader,
        "--data.synthetic", str(synthetic), "--data.synthetic-ratio", "0.3",
    )  # fmt: skip
    whole = run(tmp_path / "whole", images, *options, "--optim.max-steps", "8")
    run(tmp_path / "part", images, *options, "--optim.max-steps", "4")
    assert resume(tmp_path / "part", "--optim.max-steps", "8") == whole


def test_repetitions_of_a_phase_have_views_of_their_own_stream(
    images: Path, store: Path, tmp_path: Path
) -> None:
    options = (
        "--method", "tests.engine.toy:Toy", "--data.augmentation", "none",
        "--data.min-scale", "None",
    )  # fmt: skip
    made = prepared(tmp_path / "run", images, *mixed(store, 0.5), *options)
    streams = Trainer(made, ())._streams
    assert streams(0) == ["", "critic.1"]
    batches = list(islice(made.loader.epoch(0, 0, streams), 6))
    assert not torch.equal(*(batch.index for batch in batches[:2]))
    for batch in batches:
        assert batch.generated is not None and batch.images is not None
        assert not batch.generated.all() and batch.generated.any()
        for view, stored in zip(batch.views, batch.generated, strict=True):
            mean, std = (torch.tensor(row).reshape(3, 1, 1) for row in _normal())
            is_real = ((view * std + mean) * 2 - 1 - batch.images).abs().amax((1, 2, 3)) < 1e-4
            assert torch.equal(is_real, ~stored)


def _normal() -> tuple[tuple[float, ...], tuple[float, ...]]:
    spec = AugmentSpec.named("none")
    return spec.mean, spec.std


def test_the_log_says_what_is_stored_and_what_is_missing(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "store", samples(names_of(images)[:37], (0, 1), 16, None), 16)
    run(tmp_path / "run", images, *mixed(root, 0.5, "second-only"), "--optim.max-steps", "1")
    out = "".join(capfd.readouterr())
    assert "resident loader: 114 images of 16 px" in out
    assert "with probability 0.5 the second view is a stored one: 74 views of 37 images" in out
    assert out.count("3 of 40 images have no stored view: real images stand in") == 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["views"] == {"store": str(root), "probability": 0.5, "policy": "second-only"}


def test_views_of_another_size_go_through_the_torch_engine(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = view_store(tmp_path / "store", images, size=24, up=20)
    assert len(run(tmp_path / "run", images, *mixed(root, 0.5, "pair"))) == 9
    out = "".join(capfd.readouterr())
    assert "torch loader: the stored views have another size than the images" in out
    with pytest.raises(ConfigError, match=r"--data\.loader: resident needs images of one square"):
        run(tmp_path / "asked", images, *mixed(root, 0.5), "--data.loader", "resident")
    assert not (tmp_path / "asked").exists()


def test_a_store_that_changed_is_refused_on_resume(
    images: Path, store: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(store, tmp_path / "store")
    run(tmp_path / "run", images, *mixed(own, 0.5), "--optim.max-steps", "2")
    shutil.rmtree(own)
    with pytest.raises(DataError, match=r"--views\.store: .* is no view store"):
        resume(tmp_path / "run", "--optim.max-steps", "4")
    view_store(own, images, views=3)
    with pytest.raises(CheckpointError, match="with 80 stored views, now there are 120; restore"):
        resume(tmp_path / "run", "--optim.max-steps", "4")
    with pytest.raises(CheckpointError, match=r"other settings: .*views\.probability"):
        resume(tmp_path / "run", "--views.probability", "0.25")


def test_a_method_with_images_of_its_own_or_with_one_view_is_refused(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EveryOther(Pretext):
        def wrap_source(self, source: Source, facts: Facts) -> Source:
            return source.subset(torch.arange(0, len(source), 2))

    def one_view(self: Method, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        return named[:1]

    with monkeypatch.context() as patch:
        patch.setattr(Method, "build_pretext", lambda config: EveryOther())
        with pytest.raises(ConfigError, match=r"--views\.store: this method makes its own images"):
            run(tmp_path / "run", images, *mixed(store, 0.5))
    monkeypatch.setattr(SimCLR, "view_specs", one_view)
    for policy in ("second-only", "pair"):
        with pytest.raises(ConfigError, match=rf"--views\.policy: {policy} is about the second"):
            prepared(tmp_path / "run", images, *mixed(store, 0.5, policy))
    assert not (tmp_path / "run").exists()
    made = prepared(tmp_path / "run", images, *mixed(store, 1))
    (batch, *_) = made.loader.epoch(0, 0, lambda number: [""])
    assert batch.generated is not None and batch.generated.shape == (1, 12)
    assert bool(batch.generated.all())


def test_a_run_of_stored_views_alone_shows_no_real_image(images: Path, tmp_path: Path) -> None:
    """The second views of two runs whose real images differ, but not in their names, are equal."""
    store = write(tmp_path / "store", samples(names_of(images), (0, 1), 16, None), 16)
    other = tmp_path / "other"
    for name in names_of(images):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / names_of(images)[0], other / name)
    views = [
        [batch.views for batch in made.loader.epoch(1, 0, lambda number: [""])]
        for made in (
            prepared(tmp_path / source.name, source, *mixed(store, 1.0, "second-only"))
            for source in (images, other)
        )
    ]
    assert len(views[0]) == 3
    for one, two in zip(*views, strict=True):
        assert torch.equal(one[1], two[1]) and not torch.equal(one[0], two[0])


@pytest.mark.parametrize("loader", ["resident", "dali", "torch"])
def test_the_report_shows_views_as_the_run_saw_them(
    loader: str, images: Path, store: Path, tmp_path: Path
) -> None:
    synthetic = write_store(tmp_path / "z", 11, size=16)
    made = prepared(
        tmp_path / "run", images, *mixed(store, 0.5), "--data.augmentation", "none",
        "--data.min-scale", "None", "--data.loader", loader, "--data.synthetic", str(synthetic),
        "--data.synthetic-ratio", "0.3",
    )  # fmt: skip
    shown = batch_grid(made)
    grid, marks = shown.rows, shown.stored
    assert marks is not None
    assert np.shape(grid) == (8, 3, 16, 16, 3) and marks.shape == (8, 2)
    for row, (image, *views) in enumerate(grid):
        for view, stored in zip(views, marks[row], strict=True):
            assert (
                np.array_equal(view, image) != stored
            )  # real images only, or stored views of them
    assert 0 < marks.sum() < 16
