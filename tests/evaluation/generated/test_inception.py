"""FID against torchmetrics on the same weights, and files of weights that are none."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssgear.evaluation import frechet_distance
from ssgear.evaluation.generated import inception as room
from ssgear.evaluation.generated.fid import Moments
from ssgear.evaluation.generated.inception import About, Inception, fid, load_inception
from tests.evaluation.kaiming_inception import write_weights

ABOUT = About(real="test images of mini", condition="label", seed=3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("inception") / "weights.pth")


def pictures(count: int, seed: int, tint: float) -> Tensor:
    """Smooth coloured blotches with some noise, 33 pixels wide."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, (33, 33), mode="bicubic")
    noise = torch.rand(count, 3, 33, 33, generator=generator)
    return ((0.7 * smooth + 0.2 * noise + tint) * 255).clamp(0, 255).byte()


@pytest.mark.parametrize(("features", "made", "real"), [("64", 9, 8), ("2048", 3, 4)])
def test_fid_is_that_of_torchmetrics(features: str, made: int, real: int, weights: Path) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    some, others = pictures(made, 1, 0.0), pictures(real, 2, 0.1)
    theirs = FrechetInceptionDistance(
        feature=int(features), antialias=False, feature_extractor_weights_path=str(weights)
    ).set_dtype(torch.float64)
    theirs.update(others, real=True)
    theirs.update(some, real=False)
    inception = load_inception(weights, features=features)
    found = fid(inception, some, others, about=ABOUT)
    assert found["fid"] == pytest.approx(float(theirs.compute()), rel=1e-5)
    assert found["fid"] > 0.01  # features that depend on the images
    assert found["fid_protocol"] == (
        f"{made} synthetic images of 33 pixels (noise of seed 3, of the labels of the real ones) "
        f"against {real} test images of mini as squares of 33 pixels; Inception-v3 of weights "
        f"{inception.digest}, resized without antialiasing"
    )


def test_the_condition_is_part_of_the_protocol() -> None:
    flat = Inception(network=torch.nn.Flatten(), digest="x")
    images = pictures(5, 1, 0.0)[:, :, ::16, ::16]

    class Floats(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return flat.network(images).float()

    inception = Inception(network=Floats(), digest="x")
    for condition, said in (("none", "(noise of seed 0) against"), ("vector", "each conditioned")):
        about = About(real="training images", condition=condition, seed=0)
        found = fid(inception, images, images, about=about)
        assert found["fid"] == pytest.approx(0, abs=1e-6) and said in found["fid_protocol"]


def test_features_are_there_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of many blocks is that of one, and no block is larger than `BLOCK`."""

    class Coarse(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, ::11, ::11].flatten(1).float()

    sizes: list[int] = []

    class Watched(Moments):
        def add(self, block_nF: Tensor) -> None:
            sizes.append(len(block_nF))
            super().add(block_nF)

    monkeypatch.setattr(room, "Moments", Watched)
    made, real = pictures(137, 1, 0.0), pictures(90, 2, 0.1)
    inception = Inception(network=Coarse(), digest="x")
    whole = fid(inception, made, real, about=ABOUT)["fid"]
    assert sizes == [137, 90] and whole == pytest.approx(
        frechet_distance(Coarse()(made), Coarse()(real)), rel=1e-9
    )
    sizes.clear()
    monkeypatch.setattr(room, "BLOCK", 50)
    assert fid(inception, made, real, about=ABOUT)["fid"] == pytest.approx(whole, rel=1e-9)
    assert sizes == [50, 50, 37, 50, 40]
    with pytest.raises(ArgumentError, match="1 image"):
        fid(inception, made[:1], real, about=ABOUT)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code of a file was run')",))


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    pickle_file, text, numbers = (tmp_path / name for name in ("bomb.pth", "text.pth", "3.pth"))
    torch.save({"weight": Bomb()}, pickle_file)
    text.write_text("no weights")
    torch.save({"weight": 3}, numbers)
    raw = tmp_path / "raw.pkl"
    raw.write_bytes(pickle.dumps(Bomb(), protocol=2))
    for path, said in (
        (tmp_path / "none.pth", "No such file or directory; name the file that torch-fidelity"),
        (tmp_path, "Is a directory"),
        (pickle_file, "is no file of plain weights"),
        (raw, "is no file of plain weights"),
        (text, "is no file of plain weights"),
        (numbers, "holds more than weights"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_inception(path, option="--eval.inception")
        message = str(caught.value)
        assert message.startswith(f"--eval.inception: {path}: ") and said in message, message
        assert "\n" not in message


def test_weights_of_another_network(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match="not Inception-v3's weights as torch-fidelity"):
        load_inception(tmp_path / "linear.pth")


def test_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, tmp_path / "empty.pth")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "ssgear\[fid\]"'):
        load_inception(tmp_path / "empty.pth")
