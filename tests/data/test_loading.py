"""The engines give the same batches, from any step on, whatever is made together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data import dali_pipeline, resident
from ssgear.data.augment import AugmentSpec
from ssgear.data.batch import Batch
from ssgear.data.loading import (
    Loader,
    ViewPlan,
    augmentation,
    build_loader,
    choose_engine,
    view_size,
)
from ssgear.data.sampler import Sampler
from ssgear.data.sources import Source, open_source
from ssgear.errors import ConfigError, MissingDependencyError

Engine = Literal["resident", "dali", "torch"]


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(DataConfig(), "train").subset(torch.arange(0, 4000, 37))


def loader(source: Source, engine: Engine, needs_images: bool = False, size: int = 32) -> Loader:
    spec = AugmentSpec.named("simclr-cifar")
    plan = ViewPlan(
        specs=(spec, dataclasses.replace(spec, blur=0.5)),
        size=size,
        seed=3,
        device=torch.device("cpu"),
        needs_images=needs_images,
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=12, seed=3)

    config = dataclasses.replace(DataConfig(), loader=engine)
    return build_loader(config, source, sampler_for, plan)[0]


def main_only(number: int) -> Sequence[str]:
    return [""]


def same(one: Batch, two: Batch, atol: float = 0) -> None:
    assert torch.equal(one.index, two.index) and torch.equal(one.position, two.position)
    assert (one.epoch, one.step) == (two.epoch, two.step)
    for a, b in zip(one.views, two.views, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_the_resident_engine_starts_anywhere_and_in_any_portions(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(loader(source, "resident").epoch(2, 0, main_only))
    assert [batch.step for batch in whole] == list(range(18, 27))
    monkeypatch.setattr(resident, "PIXELS_AT_ONCE", 3 * 12 * 32 * 32)
    for first in (0, 1, 5):
        later = list(loader(source, "resident").epoch(2, first, main_only))
        assert len(later) == 9 - first
        for one, two in zip(whole[first:], later, strict=True):
            same(one, two)


def test_both_engines_give_the_same_batches(source: Source) -> None:
    engines = [loader(source, name, needs_images=True) for name in ("resident", "torch")]
    for one, two in zip(*(islice(e.epoch(1, 3, main_only), 3) for e in engines), strict=True):
        same(one, two, atol=1e-5)
        assert one.images is not None and two.images is not None
        assert float(one.images.min()) >= -1 and float(one.images.max()) <= 1
        torch.testing.assert_close(one.images, two.images)
        assert one.labels is not None and torch.equal(one.labels, source.labels[one.index])


@pytest.mark.parametrize("engine", ["resident", "dali", "torch"])
def test_streams_have_orders_of_their_own_and_leave_the_main_one_alone(
    source: Source, engine: Engine
) -> None:
    def streams(number: int) -> Sequence[str]:
        return ["", *["x.1"] * (number % 2)]

    with_stream = list(loader(source, engine).epoch(0, 0, streams))
    main = list(loader(source, engine).epoch(0, 0, main_only))
    order = [batch.step for batch in with_stream]
    assert order == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8]
    firsts = [batch for place, batch in enumerate(with_stream) if order.index(batch.step) == place]
    for one, two in zip(firsts, main, strict=True):
        same(one, two)
    assert not torch.equal(with_stream[1].index, with_stream[2].index)


def test_the_choice_of_engine_size_and_augmentation(source: Source, tmp_path: Path) -> None:
    assert choose_engine(DataConfig(), source)[0] == "resident"
    assert choose_engine(DataConfig(resident_limit_mb=0), source)[0] == "torch"
    assert choose_engine(DataConfig(loader="torch"), source) == (
        "torch", "asked for by --data.loader",
    )  # fmt: skip
    assert view_size(DataConfig(), source) == 32 and view_size(DataConfig(size=48), source) == 48
    assert augmentation(DataConfig(), 64) == AugmentSpec.named("simclr-cifar")
    assert augmentation(DataConfig(), 65) == AugmentSpec.named("simclr")
    assert augmentation(DataConfig(min_scale=0.3), 65).crop_scale == (0.3, 1.0)
    with pytest.raises(ConfigError, match="augmentation none does not crop"):
        augmentation(DataConfig(min_scale=0.3, augmentation="none"), 32)
    from PIL import Image

    for number, size in enumerate(((30, 30), (40, 50))):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    mixed = open_source(DataConfig(path=tmp_path, test_share=0), "train")
    assert choose_engine(DataConfig(), mixed)[0] == "torch"
    assert view_size(DataConfig(), mixed) == 224
    with pytest.raises(ConfigError, match=r"--data\.loader: resident needs images of one square"):
        choose_engine(DataConfig(loader="resident"), mixed)


def test_dali_is_chosen_where_there_is_a_gpu(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, gpu = DataConfig(resident_limit_mb=0), torch.device("cuda")
    problem = ""
    monkeypatch.setattr(dali_pipeline, "why_not", lambda device: problem)
    chosen, why = choose_engine(files, source, device=gpu)
    assert chosen == "dali" and why.endswith("; the GPU decodes them")
    assert choose_engine(DataConfig(), source, device=gpu)[0] == "resident"
    assert choose_engine(files, source, device=torch.device("cpu"))[0] == "torch"
    problem = "NVIDIA DALI is not installed; pip install it"
    chosen, why = choose_engine(files, source, device=gpu)
    assert chosen == "torch" and why.endswith(problem)
    with pytest.raises(MissingDependencyError, match=r"pip install it, or --data\.loader"):
        loader(source, "dali")
