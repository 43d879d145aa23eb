"""`ssgear evaluate ENCODER`: what is written, what is computed again, ranks, other subjects."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from ssgear.evaluate import main
from ssgear.evaluation.results import read_per_image
from ssgear.models.encoders import Normalized
from tests.evaluate.photos import settle, write_encoder, write_photos
from tests.ranks import Ranks

Ssgear = Callable[..., Any]
FEW = ("--protocol", "linear", "knn", "map", "health")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that an encoder is shown."""
    counts: list[int] = []
    whole = Normalized.normalize

    def counting(self: Normalized, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(Normalized, "normalize", counting)
    return counts


def figures_of(done: Any) -> dict[str, Any]:
    assert done.status == 0, done.err
    figures: dict[str, Any] = json.loads(Path(done.out.splitlines()[-1]).read_text())
    return figures


def test_a_bare_encoder_leaves_figures_values_and_a_page(
    encoder: Path, photos: Path, run_ssgear: Ssgear
) -> None:
    file = encoder / "encoder.safetensors"
    done = run_ssgear("evaluate", file, "--data.path", photos, *FEW)
    figures = figures_of(done)
    path = Path(done.out.splitlines()[-1])
    assert path == encoder / "evaluation-folder-photos-linear-knn-map-health.json"
    counts = (figures["num_train"], figures["num_test"])
    assert sum(counts) == 90 and figures["subject"] == str(file)
    details = figures["details"]
    assert (details["knn"]["num_train"], details["knn"]["num_test"]) == counts
    low, high = details["linear_probe"]["interval"]
    assert low <= figures["linear_probe"] <= high
    test_images, values = read_per_image(path)
    assert test_images == figures["test_images"] != ""
    assert {"linear_probe", "knn", "knn_20", "map"} <= values.keys()
    assert float(values["knn"].double().mean()) == figures["knn"]
    page = path.with_suffix(".html").read_text()
    for name in details:
        assert name in page
    for note in figures["notes"]:
        assert note in page and f"ssgear: {note}" in done.err
    assert f"{100 * figures['linear_probe']:.2f} %" in page
    assert not re.findall(
        r"""(?:src|href)=["'](?!#|data:)|@import|url\(["']?(?!data:|["'])""", page
    )


def test_nothing_is_computed_twice(
    encoder: Path, photos: Path, run_ssgear: Ssgear, encoded: list[int]
) -> None:
    arguments = ("evaluate", encoder, "--data.path", photos, *FEW, "blocks")
    first = figures_of(run_ssgear(*arguments))
    files = sorted((encoder / "features").iterdir())
    assert encoded and {file.suffix for file in files} == {".npy", ".json", ".safetensors"}
    encoded.clear()
    again = run_ssgear(*arguments)
    assert figures_of(again) == first and encoded == []
    assert "is replaced" in again.err and sorted((encoder / "features").iterdir()) == files
    more = figures_of(run_ssgear("evaluate", encoder, "--data.path", photos, "--protocol", "mlp"))
    assert more["mlp_probe"] > 0 and encoded == []  # of features that are known


def test_what_changed_is_computed_anew(
    encoder: Path, tmp_path: Path, run_ssgear: Ssgear, encoded: list[int]
) -> None:
    photos = write_photos(tmp_path / "photos")
    arguments = ("evaluate", encoder, "--data.path", photos, "--protocol", "health")
    before = figures_of(run_ssgear(*arguments))["effective_rank"]
    for file in photos.rglob("*.png"):
        Image.new("RGB", (16, 16), (file.stat().st_ino % 200, 7, 9)).save(file)
        settle(file)
    encoded.clear()
    images = figures_of(run_ssgear(*arguments))["effective_rank"]
    assert encoded and images != before
    shutil.copytree(write_encoder(tmp_path / "other", seed=1), encoder, dirs_exist_ok=True)
    encoded.clear()
    assert encoded == [] and figures_of(run_ssgear(*arguments))["effective_rank"] != images
    assert encoded


def test_without_a_cache_only_figures_are_written(
    encoder: Path, photos: Path, run_ssgear: Ssgear
) -> None:
    arguments = ("evaluate", encoder, "--data.path", photos, *FEW)
    without = figures_of(run_ssgear(*arguments, "--cache", "false"))
    name = "evaluation-folder-photos-linear-knn-map-health"
    assert {path.name for path in encoder.iterdir()} == {
        "encoder.json", "encoder.safetensors", f"{name}.json", f"{name}.html",
        f"{name}.safetensors",
    }  # fmt: skip
    assert figures_of(run_ssgear(*arguments)) == without


def test_a_block_has_features_of_its_own(
    encoder: Path, photos: Path, run_ssgear: Ssgear, encoded: list[int]
) -> None:
    widths = {}
    for block in ("layer1", "layer2"):
        encoded.clear()
        options = ("--features", block, "--protocol", "health", "--data.path", photos)
        figures = figures_of(run_ssgear("evaluate", encoder, *options))
        assert encoded and figures["features"] == block
        widths[block] = figures["effective_rank"]
    assert widths["layer1"] != widths["layer2"]
    keys = {np.load(file).shape[1] for file in (encoder / "features").glob("*.npy")}
    assert keys == {4 * 4, 4 * 6}  # four quadrants of each channel


def test_an_encoder_is_like_itself_and_others_have_a_name(
    encoder: Path, photos: Path, tmp_path: Path, run_ssgear: Ssgear
) -> None:
    other = write_encoder(tmp_path / "other", seed=1)
    arguments = ("evaluate", encoder, "--data.path", photos, "--protocol", "cka", "opd")
    same = figures_of(run_ssgear(*arguments, "--against", encoder))
    assert same["cka"] == pytest.approx(1, abs=1e-5)
    assert same["opd"] == pytest.approx(0, abs=1e-5)
    done = run_ssgear(*arguments, "--against", other)
    differs = figures_of(done)
    assert differs["cka"] < 0.999 and differs["opd"] > 1e-3
    path = encoder / "evaluation-folder-photos-cka-opd-against-other.html"
    assert path.is_file() and "encoder (rows) and other (columns)" in path.read_text()


def test_transfer_to_a_second_folder(
    encoder: Path, photos: Path, tmp_path: Path, run_ssgear: Ssgear
) -> None:
    second = write_photos(tmp_path / "second", classes=4, images=9)
    arguments = ("--protocol", "transfer", "--transfer", second)
    figures = figures_of(run_ssgear("evaluate", encoder, "--data.path", photos, *arguments))
    alone = figures_of(run_ssgear("evaluate", encoder, "--data.path", second))
    for name in ("linear_probe", "knn", "knn_20"):
        assert figures[f"{name}[second]"] == alone[name]
        assert figures["details"][f"{name}[second]"] == alone["details"][name]


def test_published_weights_of_a_folder(
    photos: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_for_hf(timm.create_model("test_vit"), tmp_path / "vit", safe_serialization=True)
    arguments = ("--data.path", photos, "--protocol", "attention", "patch-pca", "health")
    done = run_ssgear("evaluate", f"timm:{tmp_path}/vit", *arguments)
    figures = figures_of(done)
    path = Path(done.out.splitlines()[-1])
    assert path.parent == Path() and path.name.endswith("attention-patch-pca-health.json")
    page = path.with_suffix(".html").read_text()
    assert "Attention of the class token" in page and "Principal components" in page
    assert figures["num_test"] > 1 and figures["effective_rank"] > 1
    assert {file.name for file in tmp_path.iterdir()} == {
        "vit", path.name, path.with_suffix(".html").name
    }  # fmt: skip


def evaluate_on_a_rank(encoder: Path, photos: Path) -> tuple[int, list[int]]:
    """Evaluate beside the other rank, and return the status and how many images were encoded."""
    shown: list[int] = []
    whole = Normalized.normalize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Normalized, "normalize", lambda self, x: (shown.append(len(x)), whole(self, x))[1]
        )
        words = ["--data.path", str(photos), *FEW, "cka", "--against", str(encoder.parent / "b")]
        return main([str(encoder), *words]), shown


@pytest.fixture
def ranks() -> Iterator[Ranks]:
    """Two ranks of a test that ends their group, as a command does."""
    ranks = Ranks(2)
    yield ranks
    for process in ranks.processes:
        process.kill()


def test_two_ranks_write_what_one_writes(
    photos: Path, tmp_path: Path, run_ssgear: Ssgear, ranks: Ranks
) -> None:
    folders = [write_encoder(tmp_path / name / "a") for name in ("one", "two")]
    for folder in folders:
        write_encoder(folder.parent / "b", seed=1)
    against = ("cka", "--against", folders[0].parent / "b")
    one = figures_of(run_ssgear("evaluate", folders[0], "--data.path", photos, *FEW, *against))
    (first, shown), (second, others) = ranks.run(evaluate_on_a_rank, folders[1], photos)
    assert (first, second) == (0, 0) and others and sum(others) < sum(shown)
    (path,) = folders[1].glob("evaluation-*.json")
    two = json.loads(path.read_text())
    assert {**two, "subject": ""} == {**one, "subject": ""}
    files = [{file.name: file for file in (f / "features").glob("*.npy")} for f in folders]
    assert files[0].keys() == files[1].keys() and len(files[0]) >= 4
    for name, file in files[0].items():
        np.testing.assert_allclose(np.load(file), np.load(files[1][name]), rtol=1e-5, atol=1e-6)
    assert not [*(folders[1] / "features").glob(".*")]
