"""FID from command to report: which images are measured, and that its protocol stands beside it.

Inception is replaced by a few pixels here, so that it runs anywhere and quickly; the figure itself
is held against torchmetrics in tests/evaluation/test_inception.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssgear.callbacks import samples
from ssgear.config.schema import DataConfig
from ssgear.data.sources import load_images, open_source
from ssgear.data.sources.decode import to_tensor
from ssgear.data.sources.square import centre_squares
from ssgear.evaluation import frechet_distance
from ssgear.evaluation.generated import inception as room
from ssgear.evaluation.protocols import compared, labelled
from ssgear.models.gan.generators import load_generator
from ssgear.models.gan.sampling import sample, to_uint8
from tests.data.sources.stl10_files import write_stl10
from tests.engine.training import SMALL as QUICK
from tests.evaluation.stand_ins import Patches
from tests.methods.gan import SMALL

Ssgear = Callable[..., Any]
STEPS = ("--optim.max-steps", "2", "--method.n-critic", "1", "--eval.no-final", "--eval.every", "0")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for Inception's weights, and what is read from it."""
    found = room.Inception(network=Patches(), digest="abc")

    def load(path: Path, *, option: str = "") -> room.Inception:
        assert path.read_text() == "weights"
        return found

    for module in (room, samples):
        monkeypatch.setattr(module, "load_inception", load)
    monkeypatch.setattr(samples, "COMPARED", 40)  # the other distance is not looked at
    (tmp_path / "weights.pth").write_text("weights")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    ("condition", "side", "said"),
    [
        ("none", 16, "(noise of seed 0) against"),
        ("label", 32, "of the labels of the real ones"),
        ("instance", 32, "each conditioned on a real one"),
    ],
)
def test_the_run_and_evaluate_agree(
    condition: str, side: int, said: str, weights: Path, tmp_path: Path, run_ssgear: Ssgear
) -> None:
    output = tmp_path / "run"
    gan = ("--method.condition", condition, "--method.resolution", side)
    options = (
        "--eval.inception",
        weights,
        "--eval.max-images",
        9,
        "--eval.final-images",
        9,
        "--output",
        output,
    )
    assert run_ssgear("train", *QUICK, *SMALL, *STEPS, *gan, *options).status == 0
    summary = json.loads((output / "summary.json").read_text())["generator"]
    assert said in summary["fid_protocol"]
    assert f"9 synthetic images of {side} pixels" in summary["fid_protocol"]
    wanted = f"against 9 test images of mini as squares of {side} pixels; Inception-v3 of weights"
    assert wanted in summary["fid_protocol"]
    page = (output / "report.html").read_text()
    assert f"{summary['fid_protocol']}." in page and "FID <b>" in page
    done = run_ssgear(
        "evaluate", output, "--protocol", "fid", "fid-train", "--inception", weights,
        "--max-images", 9,
    )  # fmt: skip
    assert done.status == 0
    again = json.loads(Path(done.out.splitlines()[-1]).read_text())
    assert again["fid"] == pytest.approx(summary["fid"], rel=1e-3)
    assert again["fid_protocol"] == summary["fid_protocol"]
    assert "9 training images of mini" in again["fid_train_protocol"]
    printed = " ".join(done.out.split())
    assert f"fid {again['fid']:.2f}" in printed.replace("│ ", "")  # no percentage
    assert f"fid_protocol: {summary['fid_protocol']}" in printed
    if condition == "none":
        assert summary["fid"] == pytest.approx(by_hand(output, side), rel=1e-6)


def by_hand(run: Path, side: int) -> float:
    """Nine test images, evenly spread, against nine samples of seed 0."""
    source = open_source(DataConfig(), "test")
    rows = torch.linspace(0, len(source) - 1, 9).round().long()
    real = load_images(source, rows, side)
    made = to_uint8(sample(load_generator(run), 9, 0))
    return frechet_distance(Patches()(made), Patches()(real))


def test_mistakes_are_told_before_anything_is_done(tmp_path: Path, run_ssgear: Ssgear) -> None:
    output = tmp_path / "run"
    done = run_ssgear("train", *QUICK, *SMALL, "--eval.inception", "no.pth", "--output", output)
    assert done.status == 2 and not output.exists()
    assert done.err.startswith("ssgear: --eval.inception: no.pth: No such file or directory; name")
    output.mkdir()
    for options, said in (
        (("--protocol", "fid"), "--inception: FID needs Inception-v3's weights; name the file"),
        (("--protocol", "knn", "--inception", "x"), "--inception: is for --protocol fid and fid-"),
        (("--protocol", "fid", "--inception", "no.pth"), "--inception: no.pth: No such file"),
    ):
        done = run_ssgear("evaluate", output, *options)
        assert (done.status, done.out) == (2, "") and done.complaint.startswith(f"ssgear: {said}")


def test_a_run_without_a_generator_says_so(
    weights: Path, tmp_path: Path, run_ssgear: Ssgear
) -> None:
    output = tmp_path / "run"
    options = ("--optim.max-steps", 1, "--eval.no-final", "--eval.every", 0, "--output", output)
    done = run_ssgear("train", *QUICK, *options, "--eval.inception", weights)
    assert done.status == 0 and "no generator is trained, so there is no FID" in done.err
    done = run_ssgear("evaluate", output, "--protocol", "fid", "--inception", weights)
    assert done.status == 2 and "generator.safetensors" in done.complaint


def test_what_protocols_need_is_looked_for_before_any_computes(
    weights: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    options = ("--optim.max-steps", 1, "--eval.no-final", "--eval.every", 0, "--output", output)
    assert run_ssgear("train", *QUICK, *options).status == 0

    def never(*_: Any) -> None:
        raise AssertionError("was computed")

    monkeypatch.setattr(labelled, "linear_probe", never)
    fid = ("fid", "--inception", weights, "--max-images", 9)
    done = run_ssgear("evaluate", output, "--protocol", "linear", *fid)
    assert done.status == 2 and "generator.safetensors" in done.complaint
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32), (9 * number, 0, 0)).save(flat / f"{number}.png")
    monkeypatch.setattr(compared, "effective_rank", never)
    done = run_ssgear("evaluate", output, "--data.path", flat, "--protocol", "health", "knn")
    assert (
        done.status == 2
        and "this protocol needs labels and these images have none" in done.complaint
    )


def test_the_training_images_of_stl10_are_those_that_a_run_learns_from(
    weights: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    assert run_ssgear("train", *QUICK, *SMALL, *STEPS, "--output", output).status == 0
    pixels = write_stl10(tmp_path, monkeypatch)
    done = run_ssgear(
        "evaluate", output, "--data.source", "stl10", "--data.path", tmp_path,
        "--protocol", "fid-train", "--inception", weights,
    )  # fmt: skip
    assert done.status == 0, done.err
    found = json.loads(Path(done.out.splitlines()[-1]).read_text())
    assert "against 4 training images of stl10" in found["fid_train_protocol"]
    real = [Image.fromarray(rows.transpose(1, 2, 0)) for rows in pixels["unlabeled"]]
    squares = torch.cat([centre_squares(to_tensor(picture)[None], 32) for picture in real])
    made = to_uint8(sample(load_generator(output), 4, 0))
    by_hand = frechet_distance(Patches()(made), Patches()(squares))
    assert found["fid_train"] == pytest.approx(by_hand, rel=1e-6)
