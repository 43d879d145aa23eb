"""What one worker makes of a job: blocks, failures, upscaled sources, claims."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.errors import ConfigError
from ssgear.storage.store_check import verify
from ssgear.storage.store_marker import read_marker
from ssgear.storage.store_writer import create
from ssgear.storage.view_store import StoreInfo, ViewStore
from ssgear.views.base import Generator, Views, item_seed
from ssgear.views.jobs import worker as _worker
from ssgear.views.jobs.originals import open_originals
from ssgear.views.jobs.plan import Job
from ssgear.views.jobs.worker import BatchReport, State, make_shard, open_state
from tests.data.view_stores import folder, noise
from tests.views.stand_ins import Quick

CPU = torch.device("cpu")


class Recorder(Quick):
    """Notes which rows it was asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Quick.Config(**settings), CPU)
        self.blocks: list[list[int]] = []
        self.seeds: list[int] = []

    def generate(self, images: Any, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        self.blocks.append([int(number) if images is None else -1 for number in ids])
        self.seeds += seeds
        return super().generate(images, ids, seeds)


def ignore(report: BatchReport) -> None:
    """Watch nothing."""


Opened = Callable[..., State]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens a worker on a store of a generator; shards of 7, blocks of 4."""
    states = []

    def opening(generator: Generator, count: int, originals: Any = None, **changes: Any) -> State:
        own = {} if originals is None else originals.settings
        settings = {"generator": "x", "seed": 1, "batch_size": 4, **generator.settings, **own}
        info = StoreInfo(
            count=count, shard_size=7, encoding="webp", size=12, settings={**settings, **changes}
        )
        root = create(tmp_path / "store", info).root
        job = Job(generator="x", config=None, root=root, info=info, originals=originals)
        states.append(open_state(generator, job))
        return states[-1]

    yield opening
    for state in states:
        state.close()


def test_blocks_are_cut_at_the_same_numbers_whatever_is_asked_for(opened: Opened) -> None:
    generator, heard = Recorder(), []
    state = opened(generator, 13)
    report = make_shard(state, 1, heard.append)
    assert generator.blocks == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert generator.seeds == [item_seed(1, f"{i:09d}") for i in range(4, 16)]
    assert [(each.shard, each.done) for each in heard] == [(1, 1), (1, 5), (1, 6)]
    assert (report.outcome, report.images, report.failed) == ("made", 6, 0)
    make_shard(state, 0, ignore)
    store = ViewStore(state.job.root)
    assert [store.metadata(i)["id"] for i in range(13)] == [f"{i:09d}" for i in range(13)]
    fields = store.metadata(9)
    assert fields["generator"] == "x" and fields["model"] == "stand-in" and fields["prompt"] is None
    drawn = generator.draw(None, [fields["seed"]])[0].permute(1, 2, 0)
    np.testing.assert_array_equal(Image.open(io.BytesIO(store.encoded(9))), drawn)


def test_failed_views_are_recorded_with_seed_and_reason(opened: Opened) -> None:
    state = opened(Recorder(fail_every=3), 14)
    reports = [make_shard(state, shard, ignore) for shard in (0, 1)]
    seeds = {f"{i:09d}": item_seed(1, f"{i:09d}") for i in range(14)}
    lost = [name for name, seed in seeds.items() if seed % 3 == 0]
    assert 0 < len(lost) < 14 and sum(report.failed for report in reports) == len(lost)
    store = ViewStore(state.job.root)
    assert [store.metadata(i)["id"] for i in range(len(store))] == [
        x for x in seeds if x not in lost
    ]
    markers = [read_marker(state.job.root, shard) for shard in (0, 1)]
    failed = [each for marker in markers if marker is not None for each in marker.failed]
    assert [(f.id, f.k, f.seed, f.reason) for f in failed] == [
        (name, 0, seeds[name], "seed 0 of 3") for name in lost
    ]
    assert verify(state.job.root) == []


@pytest.mark.parametrize("fail_every", [0, 1])
def test_upscaled_sources_stand_beside_their_first_view(
    fail_every: int, opened: Opened, tmp_path: Path
) -> None:
    config = DataConfig(path=folder(tmp_path / "images", 5), test_share=0, workers=0)
    generator = Recorder(source_side=16, upscale=True, fail_every=fail_every)
    state = opened(generator, 10, open_originals(config, 16))
    for shard in (0, 1):
        make_shard(state, shard, ignore)
    store = ViewStore(state.job.root)
    kept = [i for i in range(len(store)) if store.is_upscaled[i]]
    assert (len(store), len(kept), store.num_failed) == ((15, 5, 0), (5, 5, 10))[fail_every]
    names = [store.metadata(item)["source"] for item in kept]
    assert names == ["a/00.png", "a/02.png", "a/04.png", "b/01.png", "b/03.png"]
    for item in kept:
        fields = store.metadata(item)
        source = noise(int(fields["source"][2:4]))
        wanted = source.repeat(2, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(Image.open(io.BytesIO(store.encoded(item))), wanted)
        assert fields["size"] == [32, 48] and fields["k"] == "up"
    assert verify(state.job.root) == []


def test_a_source_that_goes_away_meanwhile_is_a_failed_view(opened: Opened, tmp_path: Path) -> None:
    root = folder(tmp_path / "images", 5)
    originals = open_originals(DataConfig(path=root, test_share=0, workers=0), 16)
    whole = opened(Recorder(source_side=16), 5, originals)
    make_shard(whole, 0, ignore)
    before = {f: ViewStore(whole.job.root).encoded(i) for i, f in enumerate("02413")}
    (whole.job.root / "000000.json").unlink()
    (root / "b" / "01.png").unlink()
    assert make_shard(whole, 0, ignore).failed == 1
    marker, store = read_marker(whole.job.root, 0), ViewStore(whole.job.root)
    assert marker is not None
    assert marker.failed[0].reason.startswith("its source cannot be read: cannot be read: No such")
    assert [store.encoded(i) for i in range(4)] == [v for f, v in before.items() if f != "1"]


def test_what_a_watcher_raises_leaves_nothing_behind(opened: Opened) -> None:
    state = opened(Recorder(), 14)

    def stop(report: BatchReport) -> None:
        if report.done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shard(state, 0, stop)
    assert [path.name for path in state.job.root.iterdir()] == ["store.json"]
    assert make_shard(state, 0, ignore).outcome == "made"


def test_a_shard_is_made_once(opened: Opened) -> None:
    generator = Recorder()
    state = opened(generator, 14)
    with state.writer.claim(0):
        assert make_shard(state, 0, ignore).outcome == "claimed"
    assert generator.blocks == []
    make_shard(state, 0, ignore)
    asked = len(generator.blocks)
    assert make_shard(state, 0, ignore).outcome == "there"
    assert len(generator.blocks) == asked


def test_another_model_than_the_commands_is_refused(opened: Opened) -> None:
    with pytest.raises(ConfigError, match=r"found another model than the command did \(unet"):
        opened(Recorder(), 14, unet={"flavour": "other"})


def test_rows_that_do_not_fit_are_the_generators_bug(opened: Opened) -> None:
    class Short(Recorder):
        def generate(self, images: Any, ids: Sequence[str], seeds: Sequence[int]) -> Views:
            made = super().generate(images, ids, seeds)
            return Views(images=made.images, metadata=made.metadata, failed=[None])

    with pytest.raises(ValueError, match=r"Short: images .* and rows \[4, 1\] are not"):
        make_shard(opened(Short(), 14), 0, ignore)


def test_sources_are_read_and_images_encoded_while_the_next_are_made(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading is one block ahead and encoding one behind, no further."""
    events: list[str] = []
    read, entry = _worker._read, _worker._encoded

    def reading(job: Job, items: range) -> Any:
        events.append(f"read {items.start}")
        return read(job, items)

    def encoding(id_: str, *args: Any) -> Any:
        time.sleep(0.02)
        events.append(f"encoded {int(id_)}")
        return entry(id_, *args)

    monkeypatch.setattr(_worker, "_read", reading)
    monkeypatch.setattr(_worker, "_encoded", encoding)

    class Slow(Recorder):
        def generate(self, images: Any, ids: Sequence[str], seeds: Sequence[int]) -> Views:
            deadline = time.monotonic() + 10
            wanted = f"read {min(int(ids[0]) + 4, 4)}"
            while wanted not in events and time.monotonic() < deadline:
                time.sleep(0.001)
            events.append(f"made {int(ids[0])}")
            return super().generate(images, ids, seeds)

    state = opened(Slow(), 7)
    make_shard(state, 0, ignore)
    assert events.index("read 4") < events.index("made 0"), "read ahead"
    assert events.index("made 4") < events.index("encoded 4")
    assert sorted(event for event in events if event.startswith("enc")) == [
        f"encoded {i}" for i in range(7)
    ]


def test_a_preview_comes_with_the_first_block_and_then_now_and_again(opened: Opened) -> None:
    heard: list[BatchReport] = []
    state = opened(Recorder(), 14)
    make_shard(state, 0, heard.append)
    assert [each.preview is not None for each in heard] == [True, False]
    state.next_preview = 0.0
    make_shard(state, 1, heard.append)
    shown = heard[2].preview
    assert shown is not None and shown.shape == (1, 1, 128, 128, 3)
    assert json.dumps(dict(heard[0].seconds)).startswith('{"stand-in"')
    assert heard[0].notes == ("a batch was made",)
