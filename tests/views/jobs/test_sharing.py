"""What the first view of an image tells is not found again, and no byte of a store shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.storage.store_check import verify
from ssgear.storage.store_marker import read_marker
from ssgear.storage.store_writer import create
from ssgear.storage.view_store import StoreInfo, ViewStore
from ssgear.views.base import Generator
from ssgear.views.jobs.originals import Originals, open_originals
from ssgear.views.jobs.plan import Job
from ssgear.views.jobs.worker import BatchReport, make_shard, open_state
from ssgear.views.sd2_caption import SD2Caption
from ssgear.views.sd_image import SDImage
from tests.data.view_stores import folder
from tests.tiny_diffusion import save_captioner, save_text_to_image, save_upscaler

CPU = torch.device("cpu")
SOURCES, VIEWS, SHARD, BLOCK = 7, 3, 6, 4
SHARDS = range(-(-SOURCES * VIEWS // SHARD))
FIRST = -(-SOURCES // BLOCK)
"""Blocks that hold first views."""
FURTHER = sum(len(range(max(s * SHARD, 8) // 4 * 4, min(s * SHARD + 6, 21), 4)) for s in SHARDS)
"""Blocks of further views alone, one that two shards need counted twice."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_upscaler(root / "x4.pth")
    save_captioner(root / "git", end=-1.0)
    save_text_to_image(root / "sd")
    return root


def caption_route(models: Path) -> Generator:
    config = SD2Caption.Config(
        model=str(models / "sd"),
        captioner=str(models / "git"),
        upscaler=models / "x4.pth",
        input_size=16,
        size=64,
        steps=1,
        caption_tokens=8,
        upscale_batch=3,
        caption_batch=4,
        diffusion_batch=2,
    )
    return SD2Caption(config, CPU)


def captioned(models: Path) -> Generator:
    config = SDImage.Config(
        model=str(models / "sd"),
        captioner=str(models / "git"),
        size=64,
        steps=2,
        caption_tokens=8,
        caption_batch=4,
        diffusion_batch=2,
    )
    return SDImage(config, CPU)


@pytest.fixture
def originals(tmp_path: Path) -> Callable[[Generator], Originals]:
    config = DataConfig(path=folder(tmp_path / "images", SOURCES), test_share=0, workers=0)
    return lambda generator: open_originals(config, generator.image_size or 0)


def filled(
    root: Path, generator: Generator, originals: Originals, order: Iterable[int] = SHARDS
) -> Counter[str]:
    """Make shards in this order and return how many rows each stage had to work on."""
    settings = {
        "generator": "x", "seed": 1, "batch_size": BLOCK, **generator.settings,
        **originals.settings,
    }  # fmt: skip
    count = VIEWS * SOURCES
    info = StoreInfo(count=count, shard_size=SHARD, encoding="jpg", size=64, settings=settings)
    create(root, info)
    job = Job(generator="x", config=None, root=root, info=info, originals=originals)
    state = open_state(generator, job)
    rows: Counter[str] = Counter()
    given: Any = generator
    works = [stage.work for stage in given.stages]
    for stage, work in zip(given.stages, works, strict=True):

        def counted(part: Any, name: str = stage.name, work: Any = work) -> None:
            rows[name] += len(part)
            work(part)

        stage.work = counted
    try:
        for shard in order:
            make_shard(state, shard, lambda report: None)
    finally:
        state.close()
        for stage, work in zip(given.stages, works, strict=True):
            stage.work = work
    return rows


def shards(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("0*")}


def without(generator: Generator) -> Generator:
    """Let it find everything for every view."""
    generator.shares = ()
    return generator


@pytest.mark.parametrize("make", [caption_route, captioned])
def test_each_image_is_described_once_and_the_store_is_the_same(
    make: Callable[[Path], Generator],
    models: Path,
    originals: Callable[[Generator], Originals],
    tmp_path: Path,
) -> None:
    generator = make(models)
    images = originals(generator)
    assert generator.shares == ("prompt", "caption_refused")
    rows = filled(tmp_path / "once", generator, images)
    again = filled(tmp_path / "each", without(generator), images)
    assert rows["diffusion"] == again["diffusion"]
    for name in set(rows) - {"diffusion"}:
        # a shard's end cuts the second block, which is made for both
        assert rows[name] == again[name] - BLOCK * FURTHER == BLOCK * (FIRST + 1)
    assert shards(tmp_path / "once") == shards(tmp_path / "each")
    assert verify(tmp_path / "once") == []
    store = ViewStore(tmp_path / "once")
    prompts = {(store.metadata(i)["source"], store.metadata(i).get("prompt")) for i in
               range(len(store)) if not store.is_upscaled[i]}  # fmt: skip
    assert len(prompts) == SOURCES and len({prompt for _, prompt in prompts}) > 1


def test_without_first_views_at_hand_they_are_found_again(
    models: Path, originals: Callable[[Generator], Originals], tmp_path: Path
) -> None:
    generator = caption_route(models)
    images = originals(generator)
    filled(tmp_path / "once", generator, images)
    rows = filled(tmp_path / "last", generator, images, order=reversed(SHARDS))
    assert shards(tmp_path / "last") == shards(tmp_path / "once")
    # of the two blocks of first views that are kept, none is enlarged twice before its own turn
    assert rows["upscale"] == rows["caption"] == BLOCK * (FIRST + FIRST + 1)
    # json that is not that of the first view is not believed
    (tmp_path / "once" / "000003.json").unlink()
    tar = tmp_path / "once" / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"k": 0', b'"k": 9'))
    filled(tmp_path / "once", generator, images, order=[3])
    name = "000003.tar"
    assert shards(tmp_path / "once")[name] == shards(tmp_path / "last")[name]


def test_an_image_that_cannot_be_enlarged_has_no_further_views_either(
    models: Path,
    originals: Callable[[Generator], Originals],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator: Any = caption_route(models)
    images = originals(generator)
    target = images.load([2])[0]
    upscale = generator.upscaler

    def broken(given: torch.Tensor) -> Any:
        made, bad = upscale(given)
        return made, [b or torch.equal(row, target) for b, row in zip(bad, given, strict=True)]

    generator.upscaler = broken
    filled(tmp_path / "once", generator, images)
    filled(tmp_path / "each", without(generator), images)
    assert shards(tmp_path / "once") == shards(tmp_path / "each")
    markers = [read_marker(tmp_path / "once", shard) for shard in SHARDS]
    failed = [(f.k, f.reason) for marker in markers if marker for f in marker.failed]
    assert failed == [(k, "super-resolution is not finite, in float32 too") for k in range(VIEWS)]


def test_time_and_notes_of_looking_again_are_told(
    models: Path, originals: Callable[[Generator], Originals], tmp_path: Path
) -> None:
    generator: Any = caption_route(models)
    images = originals(generator)
    heard: list[BatchReport] = []
    whole = generator.study

    def study(given: torch.Tensor) -> Any:
        found = whole(given)
        return type(found)(rows=found.rows, seconds=found.seconds, notes=["looked again"])

    generator.study = study
    info_of = {**generator.settings, **images.settings, "generator": "x", "seed": 1}
    info = StoreInfo(
        count=14, shard_size=SHARD, encoding="jpg", size=64, settings={**info_of, "batch_size": 4}
    )
    create(tmp_path / "store", info)
    state = open_state(
        generator,
        Job(generator="x", config=None, root=tmp_path / "store", info=info, originals=images),
    )
    try:
        make_shard(state, 2, heard.append)
    finally:
        state.close()
    assert [set(each.seconds) for each in heard] == [{"upscale", "caption", "diffusion"}]
    assert heard[0].notes == ("looked again", "looked again")
