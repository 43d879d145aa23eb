"""A store as a source, beside real images, through both loaders."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.base import Loader, ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import build_loader, choose_engine
from ssgear.data.order.sampler import Sampler
from ssgear.data.order.synthetic import joined, open_synthetic
from ssgear.data.sources import Source, open_source
from ssgear.errors import ConfigError, DataError
from ssgear.storage.view_store import ViewStore, shard_path
from tests.data.view_stores import SIDE, numbered, write_store


@pytest.fixture(scope="module")
def real() -> Source:
    return open_source(DataConfig(), "train").subset(torch.arange(0, 4000, 80))


def loaded(
    real: Source, config: DataConfig, rank: int = 0, world_size: int = 1
) -> tuple[Loader, Source, Source | None]:
    spec = AugmentSpec.named("simclr-cifar")
    plan = ViewPlan(
        specs=(spec, spec), size=SIDE, seed=3, device=torch.device("cpu"), needs_images=True
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(
            num_images=num_images, num_synthetic=num_synthetic, batch_size=12, seed=3,
            synthetic_ratio=config.synthetic_share, rank=rank, world_size=world_size,
        )  # fmt: skip

    return build_loader(config, real, sampler_for, plan, open_synthetic(config, real))[:3]


def batches(loader: Loader, epoch: int, first: int = 0) -> list[Batch]:
    return list(loader.epoch(epoch, first, lambda number: [""]))


@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_both_engines_mix_alike_and_show_the_right_images(
    ratio: float, real: Source, tmp_path: Path
) -> None:
    root = write_store(tmp_path, 7)
    config = {"synthetic": root, "synthetic_ratio": ratio, "workers": 1}
    one, two = (
        batches(loaded(real, DataConfig(loader=engine, **config))[0], 1)  # type: ignore[arg-type]
        for engine in ("resident", "torch")
    )
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.index, b.index) and a.generated is not None and b.generated is not None
        assert torch.equal(a.generated, b.generated) and a.generated.shape == (2, 12)
        assert a.images is not None and b.images is not None
        torch.testing.assert_close(a.images, b.images)
        for left, right in zip(a.views, b.views, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
        for row, place in enumerate(a.index.tolist()):
            synthetic = place >= len(real)
            assert bool(a.generated[0, row]) == synthetic
            image = (
                numbered(place - len(real)) if synthetic else real.decode(place).permute(1, 2, 0)
            )
            expected = torch.as_tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(a.images[row], expected)
            assert a.labels is not None and real.labels is not None
            assert int(a.labels[row]) == (-1 if synthetic else int(real.labels[place]))


def test_dali_mixes_as_they_do(real: Source, tmp_path: Path) -> None:
    root = write_store(tmp_path, 7)
    one, two = (
        batches(loaded(real, DataConfig(loader=engine, synthetic=root))[0], 1)  # type: ignore[arg-type]
        for engine in ("resident", "dali")
    )
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.index, b.index) and a.generated is not None and b.generated is not None
        assert torch.equal(a.generated, b.generated)
        assert a.images is not None and b.images is not None
        torch.testing.assert_close(a.images, b.images, atol=1e-6, rtol=0)
        for left, right in zip(a.views, b.views, strict=True):
            assert (left - right).abs().mean() < 0.01


@pytest.mark.parametrize("engine", ["resident", "torch"])
def test_an_image_that_comes_again_in_an_epoch_gets_other_views(
    engine: str, real: Source, tmp_path: Path
) -> None:
    config = DataConfig(loader=engine, synthetic=write_store(tmp_path, 2), workers=0)  # type: ignore[arg-type]
    views = [
        batch.views[0][batch.index == len(real)] for batch in batches(loaded(real, config)[0], 0)
    ]
    seen = torch.cat(views)
    assert len(seen) == 12 == len(seen.flatten(1).unique(dim=0))


def test_an_epoch_starts_anywhere_and_ranks_share_it(real: Source, tmp_path: Path) -> None:
    config = DataConfig(synthetic=write_store(tmp_path, 7), synthetic_ratio=0.3)
    whole = batches(loaded(real, config)[0], 2)
    later = batches(loaded(real, config)[0], 2, first=2)
    ranks = [batches(loaded(real, config, rank, 2)[0], 2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        halves = [part[step].views[1] for part in ranks]
        torch.testing.assert_close(torch.cat(halves), batch.views[1], atol=1e-5, rtol=0)
        if step >= 2:
            assert torch.equal(later[step - 2].views[1], batch.views[1])


def test_a_ratio_of_zero_is_the_run_without_a_store(real: Source, tmp_path: Path) -> None:
    root = write_store(tmp_path, 7)
    plain = batches(loaded(real, DataConfig())[0], 1)
    zero = batches(loaded(real, DataConfig(synthetic=root, synthetic_ratio=0.0))[0], 1)
    for a, b in zip(plain, zero, strict=True):
        assert torch.equal(a.index, b.index) and a.generated is b.generated is None
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    with pytest.raises(DataError, match=r"--data\.synthetic: .* is no view store"):
        open_synthetic(DataConfig(synthetic=tmp_path / "none", synthetic_ratio=0.0), real)


def test_bad_images_of_a_store_are_named_and_skipped(real: Source, tmp_path: Path) -> None:
    root = write_store(tmp_path, 12)
    damage(root, 3)
    config = DataConfig(synthetic=root, synthetic_ratio=1.0, max_bad_share=0.1)
    for engine in ("resident", "torch"):
        changed = DataConfig(**{**vars(config), "loader": engine, "workers": 0})
        loader, good, synthetic = loaded(real, changed)
        assert synthetic is not None and len(synthetic) == 11 and len(good) == len(real)
        assert synthetic.bad[0].where == f"{shard_path(root, 0)}: image 3"
        assert loader.sampler.num_synthetic == 11
        shown = [np.asarray(numbered(i)) for i in range(12) if i != 3]
        batch = batches(loader, 0)[0]
        assert batch.images is not None
        for row, place in enumerate((batch.index - len(real)).tolist()):
            expected = torch.from_numpy(shown[place]).permute(2, 0, 1) / 127.5 - 1
            torch.testing.assert_close(batch.images[row], expected)
    damage(root, 5)
    with pytest.raises(DataError, match=r"2 of 12 files .* cannot be read"):
        loaded(real, config)


def damage(root: Path, item: int) -> None:
    opened = ViewStore(root)
    path, image = shard_path(root, item // 5), opened.encoded(item)
    path.write_bytes(path.read_bytes().replace(image, bytes(len(image))))


def test_the_choice_of_engine_counts_both(real: Source, tmp_path: Path) -> None:
    config = DataConfig(synthetic=write_store(tmp_path / "same", 7))
    same = open_synthetic(config, real)
    engine, why = choose_engine(config, real, same)
    assert engine == "resident" and why.startswith("57 images of 32 px")
    other = open_synthetic(DataConfig(synthetic=write_store(tmp_path / "other", 7, size=16)), real)
    assert choose_engine(config, real, other) == ("torch", "the images have different sizes")
    with pytest.raises(ConfigError, match=r"--data\.loader: resident needs images of one square"):
        choose_engine(DataConfig(loader="resident"), real, other)


def test_joined_sources_number_the_second_after_the_first(real: Source, tmp_path: Path) -> None:
    synthetic = open_synthetic(DataConfig(synthetic=write_store(tmp_path, 7)), real)
    assert synthetic is not None and synthetic.notes == (
        "50 % of the images seen are synthetic, from 7",
    )
    both = pickle.loads(pickle.dumps(joined(real, synthetic)))
    assert len(both) == 57 and both.native_size == 32
    assert torch.equal(both.decode(49), real.decode(49))
    np.testing.assert_array_equal(both.decode(56).permute(1, 2, 0), numbered(6))
    assert both.where(50) == synthetic.where(0) and both.where(0) == real.where(0)
    np.testing.assert_array_equal(Image.open(io.BytesIO(both.encoded(51))), numbered(1))
