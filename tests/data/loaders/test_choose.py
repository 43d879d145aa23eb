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
from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec, view_set
from ssgear.data.loaders import dali_check, dali_pipeline, resident
from ssgear.data.loaders.base import Loader, ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import augmentation, build_loader, choose_engine, view_size
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources import Source, open_source
from ssgear.errors import ConfigError, MissingDependencyError

Engine = Literal["resident", "dali", "torch"]
ENGINES: tuple[Engine, ...] = ("resident", "torch")


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(DataConfig(), "train").subset(torch.arange(0, 4000, 37))


SPEC = AugmentSpec.named("simclr-cifar")
PAIR = (SPEC, dataclasses.replace(SPEC, blur=0.5))


def loader(
    source: Source,
    engine: Engine,
    needs_images: bool = False,
    specs: tuple[AugmentSpec, ...] = PAIR,
) -> Loader:
    plan = ViewPlan(
        specs=specs,
        size=32,
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


def test_both_engines_make_views_of_several_sizes_and_kinds(source: Source) -> None:
    large, small = view_set("swav-multicrop")[1:3]
    others = dataclasses.replace(small, flip=1.0), dataclasses.replace(large, flip=0.0)
    engines = [loader(source, name, True, (large, small, *others)) for name in ENGINES]
    one, two = (next(iter(engine.epoch(0, 7, main_only))) for engine in engines)
    same(one, two, atol=1e-5)
    assert [view.shape[-1] for view in one.views] == [32, 14, 14, 32]
    assert [len(view) for view in one.rows(slice(3, 8)).views] == [5] * 4
    assert one.images is not None and one.images.shape[-1] == 32


@pytest.mark.parametrize("workers", [0, 2])
def test_autoaugment_in_the_torch_engine_is_that_of_augment(source: Source, workers: int) -> None:
    (spec,) = view_set("autoaugment-cifar")
    engine = loader(source, "torch", specs=(spec, dataclasses.replace(spec, flip=1.0)))
    engine.workers = workers
    for batch in islice(engine.epoch(1, 1, main_only), 2):
        images = torch.stack([source.decode(place) for place in batch.index.tolist()])
        for view, each in enumerate(engine.plan.specs):
            keyed = {"seed": 3, "epoch": 1, "indices": batch.index, "view": view}
            assert torch.equal(batch.views[view], augment(images, each, size=32, **keyed))


def test_dali_makes_views_of_several_sizes(source: Source) -> None:
    large, small = view_set("swav-multicrop")[1:3]
    specs = (large, small, dataclasses.replace(small, flip=1.0))
    one, two = (
        next(iter(loader(source, name, True, specs).epoch(0, 7, main_only)))
        for name in ("torch", "dali")
    )
    assert torch.equal(one.index, two.index)
    for ours, theirs in zip(one.views, two.views, strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).abs().mean() < 0.01
    assert one.images is not None and two.images is not None
    assert (one.images - two.images).abs().max() < 1e-6


def test_autoaugment_is_the_torch_engines_alone(source: Source) -> None:
    specs = view_set("autoaugment")
    engine, why = choose_engine(DataConfig(), source, specs=specs)
    assert engine == "torch" and "AutoAugment" in why
    assert choose_engine(DataConfig(loader="torch"), source, specs=specs)[0] == "torch"
    with pytest.raises(ConfigError, match=r"resident has no AutoAugment; use --data\.loader torch"):
        choose_engine(DataConfig(loader="resident"), source, specs=specs)


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
    assert augmentation(DataConfig(), 64) == view_set("simclr-cifar")
    assert augmentation(DataConfig(), 65) == view_set("simclr")
    assert augmentation(DataConfig(min_scale=0.3), 65)[0].crop_scale == (0.3, 1.0)
    pair = augmentation(DataConfig(min_scale=0.3, augmentation="byol"), 32)
    assert [spec.crop_scale for spec in pair] == [(0.3, 1.0)] * 2 and pair[0].blur == 1
    crops = augmentation(DataConfig(min_scale=0.1, augmentation="swav-multicrop"), 32)
    large, small = crops[0].crop_scale, crops[-1].crop_scale
    assert large == pytest.approx((0.28, 1.0)) and small == pytest.approx((0.1, 0.28))
    crops = augmentation(DataConfig(min_scale=0.5, augmentation="swav-multicrop"), 32)
    assert [spec.crop_scale for spec in crops] == [(1.0, 1.0)] * 2 + [(0.5, 1.0)] * 6
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
    problem, fault = "", ""
    monkeypatch.setattr(dali_pipeline, "why_not", lambda device: problem)
    monkeypatch.setattr(dali_check, "fault", lambda *_: fault)
    chosen, why = choose_engine(files, source, device=gpu)
    assert chosen == "dali" and why.endswith("; the GPU decodes them")
    assert choose_engine(DataConfig(), source, device=gpu)[0] == "resident"
    assert choose_engine(files, source, device=torch.device("cpu"))[0] == "torch"
    fault = "DALI's crops are not ours: 12 % of the pixels"
    chosen, why = choose_engine(files, source, device=gpu)
    assert chosen == "torch" and why.endswith(f"MB decoded; {fault}")
    chosen, why = choose_engine(DataConfig(loader="dali"), source, device=gpu)
    assert chosen == "dali" and why == f"asked for by --data.loader, though {fault}"
    problem = "NVIDIA DALI is not installed; pip install it"
    chosen, why = choose_engine(files, source, device=gpu)
    assert chosen == "torch" and why.endswith(problem)
    with pytest.raises(MissingDependencyError, match=r"pip install it, or --data\.loader"):
        loader(source, "dali")
