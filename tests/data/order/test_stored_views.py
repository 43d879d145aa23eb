"""Stored views of images: whose they are, and what both loaders make of them."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssgear.config.schema import DataConfig, ViewsConfig
from ssgear.data.augment import AugmentSpec, augment
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import Loaded, build_loader, choose_engine
from ssgear.data.order.sampler import Sampler
from ssgear.data.order.stored_views import open_stored
from ssgear.data.order.synthetic import open_synthetic
from ssgear.data.sources import open_source
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Source
from ssgear.errors import ConfigError, DataError
from ssgear.storage.store_marker import Failed
from ssgear.storage.store_writer import Sample, create
from ssgear.storage.view_store import StoreInfo, ViewStore, shard_path, source_id
from tests.data.view_stores import (
    folder,
    names_of,
    noise,
    numbered,
    samples,
    view_of,
    view_store,
    write,
    write_store,
)

COUNT = 30
NONE = AugmentSpec.named("none")
CIFAR = AugmentSpec.named("simclr-cifar")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("images"), COUNT)


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views and an upscaled original of each image, all of the images' own size."""
    return view_store(tmp_path_factory.mktemp("store"), images, up=16)


def data(images: Path, **changes: Any) -> DataConfig:
    return DataConfig(**{"path": images, "test_share": 0.0, "workers": 0, **changes})


def loaded(
    config: DataConfig, views: ViewsConfig, spec: AugmentSpec = NONE, rank: int = 0,
    world_size: int = 1, num_views: int = 2,
) -> Loaded:  # fmt: skip
    source = open_source(config, "train")
    plan = ViewPlan(
        specs=(spec,) * num_views, size=16, seed=3, device=torch.device("cpu"), needs_images=True
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(
            num_images=num_images, num_synthetic=num_synthetic, batch_size=6, seed=3,
            synthetic_ratio=config.synthetic_share, rank=rank, world_size=world_size,
        )  # fmt: skip

    synthetic, stored = open_synthetic(config, source), open_stored(views, source)
    return build_loader(config, source, sampler_for, plan, synthetic, stored)


def batches(made: Loaded, epoch: int = 0, first: int = 0) -> list[Batch]:
    return list(made.loader.epoch(epoch, first, lambda number: [""]))


def shown(view: Tensor) -> bytes:
    """The pixels of a view that was only normalised."""
    mean, std = (torch.tensor(row).reshape(3, 1, 1) for row in (NONE.mean, NONE.std))
    pixels = ((view * std + mean) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).numpy().tobytes()


def notes(made: Loaded) -> tuple[str, ...]:
    return () if made.stored is None else made.stored.source.notes


@pytest.mark.parametrize("engine", ["resident", "dali", "torch"])
@pytest.mark.parametrize("policy", ["second-only", "any", "pair"])
def test_a_view_shows_what_the_batch_says(
    policy: Any, engine: Any, images: Path, store: Path
) -> None:
    views = ViewsConfig(store=store, probability=0.5, policy=policy)
    made = loaded(data(images, loader=engine), views)
    assert made.loader.name == engine
    counts = torch.zeros(2)
    for batch in (each for epoch in range(4) for each in batches(made, epoch)):
        assert batch.generated is not None and batch.images is not None
        counts += batch.generated.float().mean(1)
        for row, place in enumerate(batch.index.tolist()):
            name = made.source.own_name(place)
            real = noise(int(name[2:4])).tobytes()
            upscaled = view_of(name, "up", 16).tobytes()
            stored = {view_of(name, k, 16).tobytes() for k in range(2)}
            pixels = [shown(view[row]) for view in batch.views]
            if policy == "pair":
                first = upscaled if batch.generated[1, row] else real
                assert pixels[0] == first and not batch.generated[0, row]
            else:
                allowed = stored if batch.generated[0, row] else {real}
                assert pixels[0] in allowed and (policy == "any" or not batch.generated[0, row])
            assert pixels[1] in (stored if batch.generated[1, row] else {real})
            # what a generator learns from is the real image, whatever the views show
            whole = ((batch.images[row] + 1) * 127.5).round().to(torch.uint8)
            assert whole.permute(1, 2, 0).numpy().tobytes() == real
    assert float(counts[1]) > 0 and bool(counts[0] > 0) == (policy == "any")


@pytest.mark.parametrize("policy", ["second-only", "any", "pair"])
def test_both_engines_make_the_same_views(policy: Any, images: Path, store: Path) -> None:
    views = ViewsConfig(store=store, probability=0.6, policy=policy)
    spec = dataclasses.replace(CIFAR, blur=0.5)
    one, two = (
        batches(loaded(data(images, loader=engine, workers=workers), views, spec, num_views=3), 1)
        for engine, workers in (("resident", 0), ("torch", 1))
    )
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.index, b.index) and a.generated is not None and b.generated is not None
        assert torch.equal(a.generated, b.generated) and a.generated.shape == (3, 6)
        for left, right in zip(a.views, b.views, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_at_one_every_second_view_is_stored(images: Path, store: Path) -> None:
    made = loaded(data(images), ViewsConfig(store=store))
    seen = set()
    for batch in (each for epoch in range(3) for each in batches(made, epoch)):
        assert batch.generated is not None
        assert bool(batch.generated[1].all()) and not batch.generated[0].any()
        seen |= {shown(view) for view in batch.views[1]}
    every = {view_of(name, k, 16).tobytes() for name in names_of(images) for k in range(2)}
    assert seen <= every and len(seen) > 45  # of 60, 90 times
    assert notes(made) == (f"the second view is a stored one: 60 views of 30 images from {store}",)


@pytest.mark.parametrize("engine", ["resident", "dali", "torch"])
def test_zero_is_the_run_without_a_store(engine: Any, images: Path, store: Path) -> None:
    plain = batches(loaded(data(images, loader=engine), ViewsConfig(), CIFAR), 1)
    zero = ViewsConfig(store=store, probability=0.0, policy="any")
    for a, b in zip(
        plain, batches(loaded(data(images, loader=engine), zero, CIFAR), 1), strict=True
    ):
        assert torch.equal(a.index, b.index) and a.generated is b.generated is None
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))


@pytest.mark.parametrize("engine", ["resident", "dali", "torch"])
def test_views_that_are_not_stored_are_those_of_the_run_without_a_store(
    engine: Any, images: Path, store: Path
) -> None:
    plain = batches(loaded(data(images, loader=engine), ViewsConfig(), CIFAR), 1)
    views = ViewsConfig(store=store, probability=0.5, policy="any")
    for a, b in zip(
        plain, batches(loaded(data(images, loader=engine), views, CIFAR), 1), strict=True
    ):
        assert b.generated is not None
        for view in range(2):
            real = ~b.generated[view]
            torch.testing.assert_close(a.views[view][real], b.views[view][real], atol=1e-5, rtol=0)


def test_an_epoch_starts_anywhere_and_ranks_share_it(images: Path, store: Path) -> None:
    views = ViewsConfig(store=store, probability=0.5, policy="any")
    whole = batches(loaded(data(images), views, CIFAR), 2)
    later = batches(loaded(data(images), views, CIFAR), 2, first=3)
    ranks = [batches(loaded(data(images), views, CIFAR, rank, 2), 2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        parts = [part[step] for part in ranks]
        masks = [part.generated for part in parts if part.generated is not None]
        assert batch.generated is not None and torch.equal(torch.cat(masks, 1), batch.generated)
        halves = torch.cat([part.views[1] for part in parts])
        torch.testing.assert_close(halves, batch.views[1], atol=1e-5, rtol=0)
        if step >= 3:
            assert torch.equal(later[step - 3].views[1], batch.views[1])


def test_a_stored_view_of_another_size_is_cropped_by_a_box_of_its_own(
    images: Path, tmp_path: Path
) -> None:
    root = view_store(tmp_path, images, size=40, up=24)
    source = open_source(data(images), "train")
    views = ViewsConfig(store=root, policy="pair")
    stored = open_stored(views, source)
    why = "the stored views have another size than the images"
    assert choose_engine(data(images), source, None, stored) == ("torch", why)
    with pytest.raises(ConfigError, match=r"--data\.loader: resident needs images of one square"):
        choose_engine(data(images, loader="resident"), source, None, stored)
    made = loaded(data(images), views, CIFAR)
    for batch in batches(made, 1)[:2]:
        for row, place in enumerate(batch.index.tolist()):
            name = made.source.own_name(place)
            candidates: list[list[np.ndarray[Any, Any]]] = [
                [view_of(name, "up", 24)], [view_of(name, k, 40) for k in range(2)]
            ]  # fmt: skip
            for view, stored_pixels in enumerate(candidates):
                expected = [
                    augment(
                        torch.from_numpy(pixels).permute(2, 0, 1)[None], CIFAR, size=16, seed=3,
                        epoch=1, indices=batch.index[row : row + 1], view=view,
                    )[0]
                    for pixels in stored_pixels
                ]  # fmt: skip
                errors = [float((each - batch.views[view][row]).abs().max()) for each in expected]
                assert min(errors) < 1e-5, (view, errors)


def test_a_store_follows_the_folder_wherever_it_moves(
    images: Path, store: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(images, tmp_path / "elsewhere" / "under another name")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(images, arcname=".")
    here, there, packed = (
        open_stored(ViewsConfig(store=store), open_source(data(path), "train"))
        for path in (images, moved, tmp_path / "images.tar")
    )
    assert here is not None and there is not None and packed is not None
    assert len(here.source) == 60
    for other in (there, packed):
        assert torch.equal(other.owner, here.owner)
        assert torch.equal(other.source.index, here.source.index)


def test_views_of_test_images_are_not_read(images: Path, store: Path) -> None:
    made = loaded(data(images, test_share=0.3), ViewsConfig(store=store))
    test = open_source(data(images, test_share=0.3), "test")
    assert len(test) == 8 and made.stored is not None
    assert len(made.source) == 22 and len(made.stored.source) == 44
    held_out = {test.own_name(i) for i in range(8)}
    opened = ViewStore(store)
    owners = [opened.metadata(i)["source"] for i in made.stored.source.index.tolist()]
    assert not held_out & set(owners) and len(set(owners)) == 22
    for batch in batches(made):
        for row, place in enumerate(batch.index.tolist()):
            name = made.source.own_name(place)
            assert shown(batch.views[1][row]) in {view_of(name, k, 16).tobytes() for k in range(2)}


def test_a_part_of_the_images_in_any_order_keeps_its_views(images: Path, store: Path) -> None:
    source = open_source(data(images), "train").subset(torch.tensor([17, 4, 22, 0]))
    stored = open_stored(ViewsConfig(store=store), source)
    assert stored is not None and len(stored.source) == 8
    mix = stored.mix(source, first_row=100, num_views=2)
    for place in range(4):
        first, count = int(mix.first[place]) - 100, int(mix.count[place])
        assert count == 2
        for k in range(2):
            pixels = stored.source.decode(first + k).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels, view_of(source.own_name(place), k, 16))


def test_images_without_views_fall_back_and_are_counted(images: Path, tmp_path: Path) -> None:
    names = names_of(images)
    items = samples(names[5:], (0,), 16, None) + samples(names[2:6], (), 16, 16)
    root = write(tmp_path, items, 16)
    made = loaded(data(images), ViewsConfig(store=root, probability=0.75))
    assert notes(made) == (
        f"with probability 0.75 the second view is a stored one: 25 views of 25 images from {root}",
        "5 of 30 images have no stored view: real images stand in",
    )
    for batch in batches(made):
        assert batch.generated is not None
        without = [made.source.own_name(place) in names[:5] for place in batch.index.tolist()]
        assert not batch.generated[1][torch.tensor(without)].any()
    made = loaded(data(images), ViewsConfig(store=root, policy="pair"))
    assert notes(made)[1] == "29 of 30 images have no stored pair: real images stand in"


def test_what_is_picked_does_not_depend_on_the_order_of_the_store(
    images: Path, tmp_path: Path
) -> None:
    items = samples(names_of(images), (0, 3, 17), 16, None)  # with gaps: 1 and 2 have failed
    shuffled = [items[i] for i in np.random.default_rng(0).permutation(len(items))]
    views = [
        batches(loaded(data(images), ViewsConfig(store=write(tmp_path / name, order, 16)), CIFAR))
        for name, order in (("one", items), ("two", shuffled))
    ]
    for a, b in zip(*views, strict=True):
        assert torch.equal(a.views[1], b.views[1])


@pytest.mark.parametrize("engine", ["resident", "dali", "torch"])
def test_synthetic_rows_beside_stored_views(
    engine: Any, images: Path, store: Path, tmp_path: Path
) -> None:
    synthetic = write_store(tmp_path, 7, size=16)
    config = data(images, loader=engine, synthetic=synthetic, synthetic_ratio=0.5)
    made = loaded(config, ViewsConfig(store=store, policy="any"))
    assert len(notes(made)) == 1  # synthetic images have no views, and none is missed
    drawn = 0
    for batch in batches(made, 1):
        assert batch.generated is not None
        assert bool(batch.generated.all())  # synthetic, or at p = 1 a stored view
        for row, place in enumerate(batch.index.tolist()):
            drawn += place >= COUNT
            for view in batch.views:
                if place >= COUNT:
                    assert shown(view[row]) == numbered(place - COUNT, 16).tobytes()
                else:
                    name = made.source.own_name(place)
                    assert shown(view[row]) in {view_of(name, k, 16).tobytes() for k in range(2)}
    assert drawn == 15


def test_bad_views_are_named_and_left_out(images: Path, tmp_path: Path) -> None:
    root = view_store(tmp_path, images)
    opened = ViewStore(root)
    for item in (0, 1, 9):  # both views of the first image, one of another
        path, image = shard_path(root, item // 7), opened.encoded(item)
        path.write_bytes(path.read_bytes().replace(image, bytes(len(image))))
    for engine in ("resident", "dali", "torch"):
        made = loaded(data(images, loader=engine, max_bad_share=0.1), ViewsConfig(store=root))
        assert made.stored is not None and len(made.stored.source) == 57
        assert [bad.where for bad in made.stored.source.bad] == [
            f"{shard_path(root, item // 7)}: image {item}" for item in (0, 1, 9)
        ]
        assert notes(made)[1] == "1 of 30 images has no stored view: real images stand in"
        for batch in batches(made):
            for row, place in enumerate(batch.index.tolist()):
                name = made.source.own_name(place)
                right = {view_of(name, k, 16).tobytes() for k in range(2)}
                right = {noise(0).tobytes()} if place == 0 else right
                assert shown(batch.views[1][row]) in right
    with pytest.raises(DataError, match=r"3 of 60 files .* cannot be read"):
        loaded(data(images), ViewsConfig(store=root))


def test_bad_images_of_the_set_move_no_views(images: Path, store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(images, tmp_path / "copy")
    (copy / names_of(copy)[3]).write_bytes(b"no image")
    made = loaded(data(copy, max_bad_share=0.1), ViewsConfig(store=store))
    assert len(made.source) == 29 and made.stored is not None and len(made.stored.source) == 60
    for batch in batches(made):
        for row, place in enumerate(batch.index.tolist()):
            name = made.source.own_name(place)
            assert shown(batch.views[1][row]) in {view_of(name, k, 16).tobytes() for k in range(2)}


def test_images_of_an_array_are_named_by_their_number(tmp_path: Path) -> None:
    pixels = np.stack([noise(i).transpose(2, 0, 1) for i in range(5)])
    source = Source(
        "cifar10", Images(reader=ArrayReader("cifar10 training", pixels), side=16),
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    ).subset(torch.tensor([4, 2, 0]))  # fmt: skip
    names = [source.own_name(i) for i in range(3)]
    assert names == ["cifar10 training/4", "cifar10 training/2", "cifar10 training/0"]
    stored = open_stored(
        ViewsConfig(store=write(tmp_path, samples(names, (0,), 16, None), 16)), source
    )
    assert stored is not None
    assert stored.owner.tolist() == [4, 2, 0]
    mix = stored.mix(source, first_row=3, num_views=2)
    assert mix.first.tolist() == [5, 4, 3]  # stored in the order of the reader


def test_embedded_images_have_names(tmp_path: Path) -> None:
    source = open_source(DataConfig(), "train")
    names = [source.own_name(i) for i in range(len(source))]
    assert len({source_id(name) for name in names}) == len(source) and "/" in names[0]
    root = write(tmp_path, samples(names[:3], (0,), 32, None), 32)
    stored = open_stored(ViewsConfig(store=root), pickle.loads(pickle.dumps(source)))
    assert stored is not None and len(stored.source) == 3


def upscaled_only(root: Path, images: Path) -> Path:
    """A store in which the making of every view failed."""
    return failed(root, samples(names_of(images), (), 16, 24))


def failed(root: Path, kept: list[Sample]) -> Path:
    info = StoreInfo(count=1, shard_size=7, encoding="webp", size=16, settings={})
    lost = Failed(id=source_id("a/00.png"), k=0, seed=1, reason="black image")
    create(root, info).write_shard(0, [lost, *kept])
    return root


MISTAKES: dict[str, tuple[Callable[[Path, Path], Path], Any, str]] = {
    "no store": (lambda root, images: root / "none", "any", r"is no view store .* make one with"),
    "no upscaled originals": (
        lambda root, images: view_store(root, images),
        "pair",
        r"keeps no upscaled originals, which --views\.policy pair shows; use second-only or any",
    ),
    "nothing generated": (upscaled_only, "any", "holds upscaled originals only"),
    "everything failed": (lambda root, images: failed(root, []), "any", "holds no images: all"),
    "views of other images": (
        lambda root, images: write(root, samples(["c/7.png"], (0,), 16, None), 16),
        "any",
        r"has no view of any of the 30 images: it was made of others, such as 'c/7\.png', where "
        r"these are called as 'a/00\.png'",
    ),
    "images of a generator": (
        lambda root, images: write_store(root, 3),
        "second-only",
        r"holds images that are views of no others; .* by --data\.synthetic ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_store_that_cannot_be_used_is_one_line(
    mistake: str, images: Path, tmp_path: Path
) -> None:
    make, policy, message = MISTAKES[mistake]
    config = ViewsConfig(store=make(tmp_path, images), policy=policy)
    with pytest.raises(DataError, match=rf"^--views\.store: {tmp_path}.*{message}") as caught:
        open_stored(config, open_source(data(images), "train"))
    assert "\n" not in str(caught.value)


def test_other_images_of_the_same_names_are_refused(
    images: Path, store: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    for number, name in enumerate(names_of(images)):
        (others / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 1)).save(others / name)
    with pytest.raises(
        DataError, match=r"^--views\.store: .* of other images of the same names"
    ) as e:
        open_stored(ViewsConfig(store=store), open_source(data(others), "train"))
    assert "\n" not in str(e.value)
    undigested = write(tmp_path / "store", samples(names_of(images), (0,), 16, None), 16)
    assert open_stored(ViewsConfig(store=undigested), open_source(data(others), "train"))


def test_the_digest_is_of_the_file_and_of_an_arrays_pixels(images: Path) -> None:
    source = open_source(data(images), "train")
    file = images / source.own_name(3)
    assert source.digest(3) == hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    pixels = np.stack([noise(i).transpose(2, 0, 1) for i in range(3)])
    array = Source("x", Images(reader=ArrayReader("x", pixels)), mean=(0, 0, 0), std=(1, 1, 1))
    right = hashlib.blake2b(noise(2).tobytes(), digest_size=8).hexdigest()
    assert array.subset(torch.tensor([2])).digest(0) == right


def test_a_damaged_store_is_one_line(images: Path, tmp_path: Path) -> None:
    source = open_source(data(images), "train")
    root = view_store(tmp_path, images)
    last = shard_path(root, 8)
    whole = last.read_bytes()
    last.write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"000008\.tar: .*damaged or cut"):
        open_stored(ViewsConfig(store=root), source)
    last.unlink()
    with pytest.raises(DataError, match=r"--views\.store: .* holds 56 of 60 images; finish it"):
        open_stored(ViewsConfig(store=root, probability=0.0), source)


def test_upscaled_originals_are_no_synthetic_images(
    images: Path, store: Path, tmp_path: Path
) -> None:
    source = open_source(data(images), "train")
    synthetic = open_synthetic(data(images, synthetic=store), source)
    assert synthetic is not None and len(synthetic) == 60
    with pytest.raises(DataError, match=r"--data\.synthetic: .* upscaled originals only"):
        open_synthetic(data(images, synthetic=upscaled_only(tmp_path / "up", images)), source)
    with pytest.raises(DataError, match=r"--data\.synthetic: .* holds no images: all 1 failed"):
        open_synthetic(data(images, synthetic=failed(tmp_path / "none", [])), source)


@pytest.mark.parametrize("policy", ["second-only", "pair"])
def test_one_view_has_no_second(policy: Any, images: Path, store: Path) -> None:
    source = open_source(data(images), "train")
    stored = open_stored(ViewsConfig(store=store, policy=policy), source)
    assert stored is not None
    stored.check_views(2)
    with pytest.raises(ConfigError, match=rf"--views\.policy: {policy} is about the second view"):
        stored.check_views(1)
    any_view = open_stored(ViewsConfig(store=store, policy="any"), source)
    assert any_view is not None
    any_view.check_views(1)
