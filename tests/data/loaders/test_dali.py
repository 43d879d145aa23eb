"""The DALI engine on the CPU: the batches of the torch engine, and what is made of bad files."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.base import Loader, ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import build_loader
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources import Source, open_source
from ssgear.errors import DataError
from tests.data.pictures import encode, noise, picture, smooth

COUNT, BATCH = 60, 12
EXIF = Image.Exif()
EXIF[0x0112] = 6


def strange(root: Path) -> None:
    """Write one image of every kind that DALI reads otherwise than we do, or not at all."""
    image = smooth(37, 52, 100)
    image.convert("P").save(root / "p0.png", transparency=3)
    image.convert("RGBA").save(root / "p1.png")
    image.convert("P").save(root / "p2.gif")
    image.save(root / "p3.webp", lossless=True)
    image.convert("CMYK").save(root / "p4.jpg")
    Image.fromarray(noise(30, 40)[..., 0].astype("uint16") * 200).save(root / "p5.png")
    image.convert("L").save(root / "p6.jpg")
    image.save(root / "p7.jpg", exif=EXIF)
    image.save(root / "p8.tif")
    image.save(root / "p9.bmp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of different sizes, most of them JPEGs."""
    root = tmp_path_factory.mktemp("images")
    for number in range(COUNT - 10):
        sides = 33 + 7 * number % 50, 29 + 11 * number % 61
        smooth(*sides, number).save(root / f"{number:02d}.jpg", quality=60 + number)
    strange(root)
    return root


def built(
    source: Source,
    engine: str = "dali",
    *,
    needs_images: bool = False,
    rank: int = 0,
    world_size: int = 1,
    size: int = 20,
    **settings: float,
) -> tuple[Loader, Source]:
    spec = AugmentSpec.named("simclr")
    plan = ViewPlan(
        specs=(spec, dataclasses.replace(spec, interpolation="bilinear", blur=0.0)),
        size=size,
        seed=3,
        device=torch.device("cpu"),
        needs_images=needs_images,
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(
            num_images=num_images, batch_size=BATCH, seed=3, rank=rank, world_size=world_size
        )

    config = DataConfig(loader=engine, **{"workers": 1, "max_bad_share": 0.5} | settings)  # type: ignore[arg-type]
    loaded = build_loader(config, source, sampler_for, plan)
    return loaded.loader, loaded.source


def loader(source: Source, engine: str = "dali", **settings: Any) -> Loader:
    return built(source, engine, **settings)[0]


def opened(folder: Path) -> Source:
    return open_source(DataConfig(path=folder, test_share=0), "train")


def main_only(number: int) -> Sequence[str]:
    return [""]


def batches(loader: Loader, epoch: int = 1, first: int = 0) -> list[Batch]:
    return list(loader.epoch(epoch, first, main_only))


def same(one: Batch, two: Batch) -> None:
    assert torch.equal(one.index, two.index) and torch.equal(one.position, two.position)
    assert (one.epoch, one.step) == (two.epoch, two.step)
    assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[Batch]:
    return batches(loader(opened(folder)))


def test_it_gives_the_crops_of_the_torch_engine(folder: Path) -> None:
    source = opened(folder)
    ours, theirs = (loader(source, name, needs_images=True) for name in ("torch", "dali"))
    plain = AugmentSpec.named("none")
    for made in (ours, theirs):  # what follows the crop would make more of a difference of 1
        made.plan = dataclasses.replace(  # type: ignore[attr-defined]
            made.plan,
            specs=(dataclasses.replace(plain, crop_scale=(0.08, 1.0)),) * 2,  # type: ignore[attr-defined]
        )
        made.dataset.plan = made.plan  # type: ignore[attr-defined]
    seen = set()
    for one, two in zip(batches(ours), batches(theirs), strict=True):
        assert torch.equal(one.index, two.index)
        seen |= set(one.index.tolist())
        for a, b in zip(one.views, two.views, strict=True):
            deviations = (a - b) * torch.tensor(plain.std).reshape(1, 3, 1, 1) * 255
            assert deviations.abs().max() < 2.01
            assert (deviations.abs() > 0.5).float().mean() < 0.03
        assert one.images is not None and two.images is not None
        assert (one.images - two.images).abs().max() < 2.01 / 127.5
    assert seen == set(range(COUNT)), "every kind of file was among them"


def test_views_are_close_to_those_of_the_torch_engine(folder: Path, whole: list[Batch]) -> None:
    for one, two in zip(batches(loader(opened(folder), "torch")), whole, strict=True):
        for a, b in zip(one.views, two.views, strict=True):
            assert (a - b).abs().mean() < 0.005, "in standard deviations of a channel"


def test_an_epoch_starts_anywhere_and_again(folder: Path, whole: list[Batch]) -> None:
    made = loader(opened(folder), workers=2)
    for first in (0, 3, 4):
        for one, two in zip(whole[first:], batches(made, first=first), strict=True):
            same(one, two)
    assert not torch.equal(batches(made, epoch=2)[0].views[0], whole[0].views[0])


def test_two_ranks_share_a_batch(folder: Path, whole: list[Batch]) -> None:
    ranks = [batches(loader(opened(folder), rank=rank, world_size=2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for view, expected in enumerate(batch.views):
            assert torch.equal(torch.cat([part[step].views[view] for part in ranks]), expected)


def test_streams_leave_the_main_one_alone(folder: Path, whole: list[Batch]) -> None:
    def streams(number: int) -> Sequence[str]:
        return ["", *["x.1"] * (number % 2)]

    made = list(loader(opened(folder)).epoch(1, 0, streams))
    assert [batch.step for batch in made] == [5, 5, 6, 7, 7, 8, 9, 9]
    for one, two in zip([made[0], made[2], made[3], made[5], made[6]], whole, strict=True):
        same(one, two)
    assert not torch.equal(made[1].index, made[0].index)


def test_pixels_that_are_no_files(whole: list[Batch]) -> None:
    source = open_source(DataConfig(), "train").subset(torch.arange(30))
    ours, theirs = (batches(loader(source, name, size=32)) for name in ("torch", "dali"))
    for one, two in zip(ours, theirs, strict=True):
        assert all((a - b).abs().mean() < 0.01 for a, b in zip(one.views, two.views, strict=True))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def threads_end(count: int) -> bool:
    """Wait until no more than that many threads are left; the system takes a moment to end them."""
    deadline = time.monotonic() + 10
    while threads() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads() <= count


def test_an_epoch_that_is_left_leaves_no_threads(folder: Path, whole: list[Batch]) -> None:
    made = loader(opened(folder), workers=3)
    list(made.epoch(0, 0, main_only))
    idle = threads()
    for _ in range(3):
        part = made.epoch(1, 0, main_only)
        same(next(part), whole[0])
        part.close()  # type: ignore[attr-defined]
        del part
        assert threads_end(idle)
    for one, two in zip(whole, batches(made), strict=True):
        same(one, two)
    assert threads_end(idle)


# mid-run damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def hollow(path: Path) -> None:
    """Damage a file between its header and its end, so that only a decoder can tell."""
    data = path.read_bytes()
    path.write_bytes(data[:300] + b"\xff\xd9")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def smaller(path: Path) -> None:
    path.write_bytes(encode(smooth(12, 13, 0), "JPEG"))


def turned(path: Path) -> None:
    """Swap the sides, which a crop of the old ones may not fit."""
    image = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    path.write_bytes(encode(image, "JPEG"))


DAMAGE = {
    "05.jpg": (Path.unlink, "cannot be read: No such file"),
    "11.jpg": (cut, "damaged"),
    "12.jpg": (hollow, "damaged"),
    "13.jpg": (empty, "empty file"),
    "22.jpg": (turned, "its size changed"),
    "p1.png": (smaller, "its size changed"),
}


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the images, which the tests damage after the scan."""
    return shutil.copytree(folder, tmp_path / "images")


def damage(folder: Path) -> None:
    for name, (change, _) in DAMAGE.items():
        change(folder / name)


def test_files_that_are_damaged_while_training(damaged: Path, whole: list[Batch]) -> None:
    engines = {name: loader(opened(damaged), name) for name in ("torch", "dali")}
    later = loader(opened(damaged))
    clean = [batches(each)[0].views for each in engines.values()]
    damage(damaged)
    made = {name: batches(each) for name, each in engines.items()}
    source = engines["dali"].lost.source  # type: ignore[union-attr]
    bad = {i for i in range(COUNT) if Path(source.where(i)).name in DAMAGE}
    assert len(bad) == len(DAMAGE) and clean
    for each in engines.values():
        assert each.lost is not None and set(each.lost.reasons) == bad
        for file in each.lost.files():
            assert DAMAGE[Path(file.where).name][1] in file.reason
    replaced = 0
    for before, torchs, dalis in zip(whole, made["torch"], made["dali"], strict=True):
        assert torch.equal(torchs.index, dalis.index)
        assert not bad & set(dalis.index.tolist())
        for row, index in enumerate(before.index.tolist()):
            if index in bad:
                replaced += 1
                assert (torchs.views[0][row] - dalis.views[0][row]).abs().mean() < 0.02
            else:
                assert dalis.index[row] == index
                assert torch.equal(dalis.views[0][row], before.views[0][row])
    assert replaced == len(DAMAGE)
    for one, two in zip(made["dali"][2:], batches(later, first=2), strict=True):
        same(one, two)


def test_too_many_damaged_files_end_the_run(damaged: Path) -> None:
    made = {name: loader(opened(damaged), name, max_bad_share=0.05) for name in ("torch", "dali")}
    damage(damaged)
    for each in made.values():
        with pytest.raises(DataError) as caught:
            batches(each)
        told = str(caught.value)
        assert "--data.max-bad-share allows 5 %" in told and "\n" not in told
        assert any(name in told for name in DAMAGE)


@pytest.mark.parametrize("engine", ["torch", "dali"])
def test_a_folder_that_is_gone(engine: str, damaged: Path) -> None:
    made = loader(opened(damaged), engine, max_bad_share=1.0)
    shutil.rmtree(damaged)
    with pytest.raises(DataError, match="is the disk still there") as caught:
        next(made.epoch(0, 0, main_only))
    assert "\n" not in str(caught.value)


def test_what_dali_alone_cannot_read_is_decoded_by_us(
    folder: Path, whole: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is whole and that DALI refuses all the same costs a rebuilt pipeline."""
    from ssgear.data.loaders import dali

    refused = iter([True])
    feed = dali.CropPipeline.feed

    def feed_once(self: dali.CropPipeline, inputs: dali.Feed) -> None:
        if next(refused, False):
            inputs = inputs | {"0.files": [*inputs["0.files"][:-1], inputs["0.files"][-1][:200]]}
        feed(self, inputs)

    monkeypatch.setattr(dali.CropPipeline, "feed", feed_once)
    made = loader(opened(folder))
    for one, two in zip(whole, batches(made), strict=True):
        same(one, two)
    assert made.lost is not None and not made.lost.reasons


# the scan before the first epoch


def test_a_thousand_images_five_of_them_bad_on_every_engine(tmp_path: Path) -> None:
    for number in range(995):
        image = Image.fromarray(noise(8, 8, seed=number))
        (tmp_path / f"{number:03d}.jpg").write_bytes(encode(image, "JPEG"))
    jpeg = encode(Image.fromarray(noise(8, 8)), "JPEG", quality=95)
    (tmp_path / "x0 empty.jpg").write_bytes(b"")
    (tmp_path / "x1 text.jpg").write_text("this is no image")
    (tmp_path / "x2 cut.jpg").write_bytes(jpeg[:-90])
    (tmp_path / "x3 cut.png").write_bytes(picture()[:-40])
    (tmp_path / "x4 zeros.jpg").write_bytes(jpeg[:20] + bytes(500))
    orders = []
    for engine in ("resident", "dali", "torch"):
        made, source = built(opened(tmp_path), engine, size=8, workers=0, max_bad_share=0.01)
        orders.append([batch.index for batch in islice(made.epoch(0, 0, main_only), 3)])
        assert len(source) == made.sampler.num_images == 995
        assert [Path(bad.where).name[:2] for bad in source.bad] == ["x0", "x1", "x2", "x3", "x4"]
    assert all(torch.equal(a, b) for o in orders[1:] for a, b in zip(orders[0], o, strict=True))
