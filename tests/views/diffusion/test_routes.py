"""Both routes from files to a training step: tiny models in the published formats."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from ssgear import generate, train
from tests.tiny_diffusion import (
    save_captioner,
    save_text_to_image,
    save_unclip,
    save_upscaler,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_upscaler(folder / "x4.pth")
    save_captioner(folder / "git", end=-1.0)
    save_text_to_image(folder / "sd")
    save_unclip(folder / "unclip")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw = torch.Generator().manual_seed(3)
    for split, count in (("train", 6), ("test", 2)):
        for number in range(count):
            pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=draw)
            place = folder / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    return folder


def made(pictures: Path, store: Path, *words: str) -> list[dict[str, object]]:
    """Run the command and return what the store says of its views."""
    own = [*words, "--data.path", str(pictures), "--size", "64", "--steps", "2"]
    assert generate.main([*own, "--output", str(store), "--shard-size", "4"]) == 0
    assert generate.main(["--verify", "--output", str(store)]) == 0
    found = []
    for shard in sorted(store.glob("*.tar")):
        with tarfile.open(shard) as tar:
            files = {name: tar.extractfile(name) for name in tar.getnames()}
            found += [json.load(f) for name, f in files.items() if f and name.endswith(".json")]
    return found


def trained(pictures: Path, store: Path, run: Path, *words: str) -> list[dict[str, object]]:
    """Train a step on a store and return the log."""
    options = {
        "--views.store": store,
        "--data.path": pictures,
        "--data.size": 16,
        "--model.name": "resnet_tiny",
        "--optim.batch-size": 4,
        "--optim.max-steps": 1,
        "--engine.device": "cpu",
        "--log.every": 1,
        "--output": run,
    }
    given = [str(each) for pair in options.items() for each in pair]
    assert train.main([*words, *given, "--eval.no-final"]) == 0
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_caption_route(models: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["--generator", "sd2-caption", "--model", str(models / "sd"), "--input-size", "16"]
    words += ["--captioner", str(models / "git"), "--upscaler", str(models / "x4.pth")]
    words += ["--caption-tokens", "8", "--diffusion-batch", "2"]
    about = made(pictures, tmp_path / "store", *words)
    views = [each for each in about if "prompt" in each and each.get("k") == 0]
    assert len(views) == 6 and len(about) == 12  # an enlarged original beside each
    assert all(each["prompt"] for each in views)
    log = trained(pictures, tmp_path / "store", tmp_path / "run", "--preset", "views-pair")
    assert any(line.get("kind") == "train" for line in log)


@pytest.mark.slow
def test_the_instance_route(models: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["--generator", "sd-image", "--model", str(models / "unclip"), "--views", "2"]
    about = made(pictures, tmp_path / "store", *words, "--guidance", "10", "--scheduler", "ddim")
    assert sorted(int(str(each["k"])) for each in about) == [0] * 6 + [1] * 6
    assert {each["noise_level"] for each in about} == {0}
    log = trained(pictures, tmp_path / "store", tmp_path / "run", "--preset", "views-half")
    assert any(line.get("kind") == "train" for line in log)
