"""A store beside its images, from the command to the file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config.schema import ModelConfig
from ssgear.evaluation import frechet_distance
from ssgear.evaluation.generated import inception as room
from ssgear.evaluation.generated.prdc import prdc
from ssgear.models.encoders import build_encoder, load_encoder, save_encoder
from tests.data.view_stores import folder, names_of, samples, view_of, view_store, write
from tests.evaluation.stand_ins import Patches

Ssgear = Callable[..., Any]
COUNT = 9
ALL = ("--data.test-share", 0)
"""None of the images is held out."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folder(tmp_path / "images", COUNT)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    config = ModelConfig(name="resnet_tiny", stem="cifar", norm="group")
    ends = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_encoder(build_encoder(config, 16), tmp_path / "run", **ends)
    return tmp_path / "run"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = room.Inception(network=Patches(), digest="abc")
    monkeypatch.setattr(room, "load_inception", lambda path, option="": found)
    return tmp_path / "weights.pth"


def pixels(arrays: list[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def pairs(images: Path, views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and of image i its view i mod views."""
    names = names_of(images)
    real = [np.asarray(Image.open(images / name)) for name in names]
    made = [view_of(name, i % views, 16) for i, name in enumerate(names)]
    return pixels(real), pixels(made)


def test_figures_are_those_of_one_view_of_each_image(
    run_ssgear: Ssgear, images: Path, encoder: Path, weights: Path, tmp_path: Path
) -> None:
    store = view_store(tmp_path / "store", images, views=2, up=32)
    protocols = ("fid", "frechet", "prdc")
    done = run_ssgear(
        "evaluate", "--store", store, "--data.path", images, *ALL, "--encoder", encoder,
        "--inception", weights, "--protocol", *protocols,
    )  # fmt: skip
    assert done.status == 0, done.err
    path = store / "evaluation-folder-images-fid-frechet-prdc.json"
    assert done.out.strip().splitlines()[-1] == str(path)
    found = json.loads(path.read_text("utf-8"))
    real, made = pairs(images, 2)
    assert found["fid"] == pytest.approx(frechet_distance(Patches()(made), Patches()(real)))
    network = load_encoder(encoder)
    with torch.no_grad():
        distance = frechet_distance(network(made), network(real))
    assert found["frechet_encoder"] == pytest.approx(distance, rel=1e-4)
    shares = vars(prdc(Patches()(real), Patches()(made)))
    assert {name: found[name] for name in shares} == pytest.approx(shares)
    assert found["num_images"] == COUNT and "weights abc" in found["prdc_protocol"]
    assert "not FID" in found["frechet_encoder_protocol"]
    assert "frechet_encoder_protocol: one view each" in done.out
    assert "fid" in done.out and "coverage" in done.out


def test_only_images_with_views_are_compared(
    run_ssgear: Ssgear, images: Path, encoder: Path, tmp_path: Path
) -> None:
    some = names_of(images)[1:8]
    store = write(tmp_path / "store", samples(some, (0,), 16, None, images), 16)
    of = ("--data.path", images, *ALL, "--encoder", encoder)
    done = run_ssgear("evaluate", "--store", store, *of)
    assert done.status == 0, done.err
    found = json.loads((store / "evaluation-folder-images.json").read_text("utf-8"))
    assert found["num_images"] == 7 and found["protocols"] == ["prdc"]
    assert "encoder" in found["prdc_protocol"] and "fid" not in found


def test_a_store_knows_where_its_images_lie(
    run_ssgear: Ssgear, images: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, own = tmp_path / "store", ("--generator", "tests.views.stand_ins:Quick")
    monkeypatch.chdir(tmp_path)
    made = ("--source-side", 16, "--data.path", images.name, *ALL, "--output", store)
    assert run_ssgear("generate", *own, *made).status == 0
    assert json.loads((store / "store.json").read_text())["images"] == {
        "source": "auto", "path": str(images), "test_share": 0.0, "max_bad_share": 0.01,
    }  # fmt: skip
    monkeypatch.chdir("/")
    asked = ("evaluate", "--store", store, "--encoder", encoder)
    done = run_ssgear(*asked)
    assert done.status == 0, done.err
    found = json.loads((store / "evaluation-folder-images.json").read_text("utf-8"))
    assert found["num_images"] == COUNT and found["path"] == str(images)
    moved = images.rename(tmp_path / "moved")
    done = run_ssgear(*asked)
    where = f"{images}, which is not there; name them by --data.path"
    assert done.status == 2 and done.complaint.endswith(where) and str(store) in done.complaint
    assert run_ssgear(*asked, "--data.path", moved).status == 0
    # what the store says of them beside the place still holds: none is held out
    found = json.loads((store / "evaluation-folder-moved.json").read_text("utf-8"))
    assert found["num_images"] == COUNT and found["path"] == str(moved)
    folder(images / "deeper", 7)
    assert "name its images by --data.path" in run_ssgear(*asked).complaint
    # the same command from the new place goes on, and the store remembers that one
    made = ("--source-side", 16, "--data.path", moved, *ALL, "--output", store)
    assert run_ssgear("generate", *own, *made).status == 0
    assert run_ssgear(*asked).status == 0
    fields = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**fields, "images": {"test_share": 7}}))
    assert "is damaged: --data.test-share: 7.0 is not possible" in run_ssgear(*asked).complaint


def test_mistakes_are_one_line(
    run_ssgear: Ssgear, images: Path, encoder: Path, tmp_path: Path
) -> None:
    store = view_store(tmp_path / "store", images)
    others = folder(tmp_path / "others" / "deeper", 3).parent

    def refused(*options: object) -> str:
        done = run_ssgear("evaluate", *options)
        assert done.status == 2 and len(done.err.strip().splitlines()) == 1, done.err
        return str(done.complaint)

    of = ("--store", store, "--data.path", images)
    assert "--inception: FID needs" in refused(*of, "--protocol", "fid")
    assert "--encoder: name the run" in refused(*of, "--protocol", "frechet")
    assert "--encoder: precision and recall" in refused(*of)
    assert "'linear' is none of a store" in refused(*of, "--protocol", "linear")
    assert "is of a store: python -m" in refused(encoder, "--protocol", "frechet")
    assert "--inception: prdc needs Inception-v3's" in refused(encoder, "--protocol", "prdc")
    assert "--store: measures no run" in refused(encoder, *of)
    assert "--encoder: is for --store" in refused(encoder, "--encoder", encoder)
    away = ("--encoder", encoder, "--store")
    assert "is no view store" in refused(*away, images, "--data.path", images)
    assert "name its images by --data.path" in refused(*away, store, "--data.path", others)
    few = ("--data.path", images, "--max-images", 3)
    assert "has views of 3 of these images" in refused(*away, store, *few)
