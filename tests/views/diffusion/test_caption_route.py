"""The caption route from images to a training run, by tiny models saved in the published formats.

The same on other images, such as 200 of Tiny ImageNet:

    SSGEAR_TEST_DATA=FOLDER python -m pytest -m slow tests/views/diffusion/test_caption_route.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ssgear.config.schema import DataConfig
from ssgear.data.sources import open_source
from ssgear.storage.view_store import ViewStore
from tests.tiny_diffusion import save_captioner, save_text_to_image, save_upscaler

Ssgear = Callable[..., Any]
COUNT = 200


def embedded(folder: Path) -> Path:
    """Write some of the embedded images as files."""
    source = open_source(DataConfig(source="mini"), "train")
    folder.mkdir()
    for index in range(COUNT):
        source.image(index).save(folder / f"{index:03d}.png")
    return folder


def linked(images: Path, folder: Path) -> Path:
    """Link some images of a folder."""
    folder.mkdir()
    found = (path for path in sorted(images.rglob("*")) if path.suffix.lower() in (".jpeg", ".jpg"))
    for index, path in enumerate(islice(found, COUNT)):
        (folder / f"{index:03d}.jpg").symlink_to(path)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["embedded", pytest.param("real", marks=pytest.mark.data)])
def test_images_become_views_and_views_a_training_run(
    kind: str, run_ssgear: Ssgear, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("diffusers")
    folder = tmp_path / "images"
    if kind == "embedded":
        embedded(folder)
    else:
        linked(request.getfixturevalue("real_images"), folder)
    data = ("--data.path", folder, "--data.test-share", 0)
    models = (
        "--upscaler", save_upscaler(tmp_path / "x4.pth"),
        "--captioner", save_captioner(tmp_path / "git", end=-1.0),
        "--model", save_text_to_image(tmp_path / "sd"),
    )  # fmt: skip
    store, run = tmp_path / "store", tmp_path / "run"
    made = run_ssgear(
        "generate", "--generator", "sd2-caption", *models, "--input-size", 16, "--size", 64,
        "--steps", 1, "--caption-tokens", 6, "--shard-size", 64, *data, "--output", store,
    )  # fmt: skip
    assert made.status == 0, made.err
    assert run_ssgear("generate", "--verify", store).status == 0
    opened = ViewStore(store)
    assert len(opened) == 2 * COUNT - opened.num_failed and opened.is_upscaled.sum() == COUNT
    assert run_ssgear("generate", "--preview", store, *data).status == 0
    page = (store / "preview.html").read_text()
    assert page.count('class="source"') == 24 and "k = 0" in page
    trained = run_ssgear(
        "train", "--method", "simclr", "--views.store", store, "--views.policy", "pair", *data,
        "--data.size", 16, "--optim.epochs", 1, "--optim.batch-size", 50, "--optim.warmup-epochs",
        0, "--eval.no-final", "--output", run,
    )  # fmt: skip
    assert trained.status == 0, trained.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("kind") == "train"]
    assert losses and all(loss == loss and loss < 10 for loss in losses)
