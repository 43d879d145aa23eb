from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ssgear.config.schema import DataConfig
from ssgear.errors import ConfigError
from ssgear.storage.view_store import StoreInfo, source_id
from ssgear.views.base import item_seed
from ssgear.views.jobs.originals import open_originals
from ssgear.views.jobs.plan import Job, Piece, Task, piece_of
from tests.data.view_stores import folder


def job(count: int, originals: object = None) -> Job:
    info = StoreInfo(
        count=count, shard_size=10, encoding="webp", size=8, settings={"seed": 5, "batch_size": 4}
    )
    return Job(generator="x", config=None, root=Path("s"), info=info, originals=originals)  # type: ignore[arg-type]


def test_blocks_cover_a_shard() -> None:
    assert job(25).blocks(0) == [range(0, 4), range(4, 8), range(8, 12)]
    assert job(25).blocks(1) == [range(8, 12), range(12, 16), range(16, 20)]
    assert job(25).blocks(2) == [range(20, 24), range(24, 28)]


def test_tasks_are_named_by_source_and_view(tmp_path: Path) -> None:
    assert job(25).task(24) == Task("000000024", 0, item_seed(5, "000000024"))
    config = DataConfig(path=folder(tmp_path / "images", 3), test_share=0, workers=0)
    made = pickle.loads(pickle.dumps(job(9, open_originals(config, 8))))
    name = source_id("b/01.png")
    assert made.task(5) == Task(name, 1, item_seed(5, name, 1))


def test_pieces_are_apart_and_make_the_whole() -> None:
    pieces = [piece_of(f"{i}/3").of_these(range(8)) for i in (1, 2, 3)]
    assert pieces == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert piece_of(None) == Piece() and Piece().of_these([3, 5]) == [3, 5]


@pytest.mark.parametrize(
    ("text", "right"),
    [("0/3", "1/3 to 3/3"), ("4/3", "1/3 to 3/3"), ("2", "1/8"), ("1/0", "1/8"), ("-1/4", "1/4")],
)
def test_no_piece(text: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"--shard: {text} is not possible; use {right}"):
        piece_of(text)
