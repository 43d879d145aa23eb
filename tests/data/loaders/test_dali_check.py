"""DALI is held to our crops before it feeds a run: what is wrong is told with the figure."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders import dali_check
from ssgear.data.loaders.dali_pipeline import CropPipeline
from ssgear.data.sources import Source, open_source
from tests.data.pictures import smooth

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """JPEGs, a PNG, and a file that is none."""
    root = tmp_path_factory.mktemp("images")
    for number in range(11):
        smooth(40 + 3 * number, 90 - 4 * number, number).save(root / f"{number:02d}.jpg")
    smooth(30, 50, 20).save(root / "a.png")
    (root / "b.jpg").write_bytes(b"no image")
    return open_source(DataConfig(path=root, test_share=0), "train")


def test_what_is_right_passes(source: Source) -> None:
    specs = view_set("swav-multicrop")[1:3]
    assert dali_check.fault(source, specs, 32, CPU) == ""
    one = source.subset(torch.tensor([12]))
    assert dali_check.fault(one, specs, 32, CPU) == "", "nothing to compare"


def test_pixels_that_are_no_files_pass_too() -> None:
    mini = open_source(DataConfig(), "train").subset(torch.arange(5))
    assert dali_check.fault(mini, view_set("simclr-cifar"), 32, CPU) == ""


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "colours": lambda crop: crop.flip(1),
    "mirrored": lambda crop: crop.flip(3),
    "a pixel to the left": lambda crop: crop.roll(1, 3),
    "darker": lambda crop: crop - (crop > 2) * torch.tensor(3, dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_pipeline_is_refused_with_the_figure(
    kind: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = CropPipeline.take
    monkeypatch.setattr(CropPipeline, "take", lambda self: [WRONG[kind](c) for c in take(self)])
    told = dali_check.fault(source, view_set("simclr"), 32, CPU)
    found = re.search(
        r": ([\d.]+) % of the pixels of .*\.(?:jpg|png) are off .* by up to (\d+)", told
    )
    assert found is not None, told
    assert float(found[1]) > 20 and int(found[2]) >= 3


def test_one_wrong_image_is_enough(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    take = CropPipeline.take

    def one_wrong(self: CropPipeline) -> list[Tensor]:
        (crops,) = take(self)
        crops[2, :, 0] ^= 128
        return [crops]

    monkeypatch.setattr(CropPipeline, "take", one_wrong)
    told = dali_check.fault(source, view_set("simclr"), 32, CPU)
    assert f"{100 / 32:.3g} % of the pixels" in told


def test_a_pipeline_that_fails(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CropPipeline) -> list[Tensor]:
        raise RuntimeError("nvjpeg: status 6\nand more")

    monkeypatch.setattr(CropPipeline, "take", fail)
    told = dali_check.fault(source, view_set("simclr"), 32, CPU)
    assert told == "DALI fails on cpu: nvjpeg: status 6"


def test_jpegs_come_first(source: Source) -> None:
    chosen = dali_check._choose(source)
    assert len(chosen) == dali_check.COMPARED
    assert all(Path(source.where(place)).suffix == ".jpg" for place, _ in chosen)
