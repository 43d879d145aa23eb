"""DALI's crop and resize, held to our own; and what is said where DALI cannot be used."""

from __future__ import annotations

import itertools
import sys
import tomllib
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssgear.data.loaders import dali_pipeline
from ssgear.data.loaders.dali_pipeline import CropPipeline, Output, as_ppm, edge_gain, feed
from ssgear.data.sources.decode import to_tensor
from ssgear.errors import MissingDependencyError
from ssgear.kernels.augment.resample import Interpolation, crop_resize
from tests.data.pictures import noise, smooth

CPU = torch.device("cpu")


BOXES = [
    (Image.fromarray(noise(37, 51, seed=1)), (3, 5, 31, 40)),
    (Image.fromarray(noise(90, 61, seed=2)), (0, 0, 90, 61)),
    (Image.fromarray(noise(40, 40, seed=3)), (39, 0, 1, 40)),
    (Image.fromarray(noise(300, 20, seed=4)), (7, 19, 290, 1)),
    (smooth(211, 333, 5), (10, 20, 187, 301)),
    (smooth(120, 100, 6), (50, 60, 9, 11)),
]


@pytest.mark.parametrize("size", [1, 33])
@pytest.mark.parametrize(
    ("interpolation", "antialias"), itertools.product(["bicubic", "bilinear"], [True, False])
)
def test_it_agrees_with_ours(size: int, interpolation: Interpolation, antialias: bool) -> None:
    output = Output(size=size, interpolation=interpolation, antialias=antialias)
    boxes = torch.tensor([box for _, box in BOXES], dtype=torch.float32)
    pipeline = CropPipeline([output], len(BOXES), 1, CPU)
    pipeline.feed(feed([[as_ppm(image) for image, _ in BOXES]], [boxes], [output]))
    (made,) = pipeline.take()
    assert made.shape == (len(BOXES), 3, size, size) and made.dtype == torch.uint8
    differs = []
    for row, (image, _) in enumerate(BOXES):
        ours = crop_resize(
            to_tensor(image)[None],
            boxes[row : row + 1],
            size,
            interpolation=interpolation,
            antialias=antialias,
        )
        off = (made[row : row + 1].float() - ours).abs()
        assert off.max() <= 2, f"image {row}: off by {off.max()} of 255"
        differs.append(float((off > 0).float().mean()))
    assert size == 1 or sum(differs) / len(differs) < 0.05, differs


def test_several_crops_of_one_image_and_several_batches() -> None:
    outputs = [
        Output(size=8, interpolation="bicubic", antialias=True),
        Output(size=5, interpolation="bilinear", antialias=True),
    ]
    files = [as_ppm(image) for image, _ in BOXES[:2]]
    boxes = torch.tensor([box for _, box in BOXES[:2]], dtype=torch.float32)
    pipeline = CropPipeline(outputs, 2, 1, CPU)
    both = feed([files], [boxes, boxes], outputs)
    turned = feed([files[::-1]], [boxes.flip(0), boxes.flip(0)], outputs)
    pipeline.feed(both)
    pipeline.feed(turned)
    first, second = pipeline.take(), pipeline.take()
    assert [tuple(crop.shape) for crop in first] == [(2, 3, 8, 8), (2, 3, 5, 5)]
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two.flip(0))


def test_crops_of_different_images() -> None:
    outputs = [Output(size=9, interpolation="bicubic", antialias=True)] * 2
    files = [[as_ppm(image)] for image, _ in BOXES[:2]]
    boxes = [torch.tensor([box], dtype=torch.float32) for _, box in BOXES[:2]]
    pipeline = CropPipeline(outputs, 1, 1, CPU, apart=True)
    pipeline.feed(feed(files, boxes, outputs))
    alone = CropPipeline(outputs[:1], 2, 1, CPU)
    alone.feed(feed([[*files[0], *files[1]]], [torch.cat(boxes)], outputs[:1]))
    assert torch.equal(torch.cat(pipeline.take()), alone.take()[0])


def test_a_bad_file_is_an_error_that_can_be_caught() -> None:
    output = Output(size=4, interpolation="bilinear", antialias=True)
    pipeline = CropPipeline([output], 1, 1, CPU)
    pipeline.feed(feed([[b"no image"]], [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], [output]))
    with pytest.raises(RuntimeError):
        pipeline.take()


def kernel_by_hand(distance: float, interpolation: str) -> float:
    """Triangle, or Keys' cubic with a = -1/2, in its two pieces."""
    if interpolation == "bilinear":
        return max(1 - distance, 0)
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
def test_the_gain_at_edges(interpolation: Interpolation, antialias: bool) -> None:
    lengths, size = torch.tensor([1.0, 5.0, 13.0, 200.0]).double(), 7
    gains = edge_gain(lengths, Output(size=size, interpolation=interpolation, antialias=antialias))
    for length, row in zip(lengths.tolist(), gains, strict=True):
        scale = length / size
        widen = max(scale, 1.0) if antialias else 1.0
        for place, gain in enumerate(row.tolist()):
            centre = (place + 0.5) * scale
            weights = {
                pixel: kernel_by_hand(abs(pixel + 0.5 - centre) / widen, interpolation)
                for pixel in range(-100, int(length) + 100)
            }
            inside = sum(weight for pixel, weight in weights.items() if 0 <= pixel < length)
            assert gain == pytest.approx(sum(weights.values()) / inside, rel=1e-5)


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


def test_without_dali_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dali_pipeline.why_not(CPU) == ""
    absent(monkeypatch)
    with pytest.raises(MissingDependencyError) as caught:
        dali_pipeline.require(CPU)
    told = str(caught.value)
    assert told.startswith("--data.loader dali: NVIDIA DALI is not installed")
    assert 'pip install "ssgear[dali]"' in told and "--data.loader torch" in told
    assert "\n" not in told


def test_a_dali_of_another_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import nvidia.dali as dali

    monkeypatch.setattr(dali, "__cuda_version__", 12080)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    told = dali_pipeline.why_not(torch.device("cuda"))
    assert told.startswith("this NVIDIA DALI is built for CUDA 12, PyTorch for CUDA 13")
    assert 'pip uninstall nvidia-dali-cuda120, then pip install "ssgear[dali]"' in told
    assert dali_pipeline.why_not(CPU) == "", "on the CPU it does not matter"


def test_another_cuda_has_a_package_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"]["dali"]
    assert [line.partition(">")[0] for line in lines] == [*dali_pipeline.EXTRA]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    told = dali_pipeline.why_not(torch.device("cuda"))
    assert told.endswith("then pip install nvidia-dali-cuda120")


def test_a_dali_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)

    class Broken(types.ModuleType):
        def __getattr__(self, name: str) -> Tensor:
            raise OSError("libnvimgcodec.so.0: cannot open shared object file\nmore")

    monkeypatch.setitem(sys.modules, "nvidia.dali", Broken("nvidia.dali"))
    told = dali_pipeline.why_not(CPU)
    assert "cannot be imported (libnvimgcodec.so.0: cannot open shared object file)" in told
