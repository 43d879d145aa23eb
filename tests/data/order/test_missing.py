"""Which image stands in for one that is lost, and when it is too much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssgear.config.schema import DataConfig
from ssgear.data.order.missing import TRIES, LostImages, Rows
from ssgear.data.order.sampler import Items
from ssgear.data.sources import open_source
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.loading import scan
from ssgear.data.sources.source import BadFile, Source
from ssgear.engine.saving import read_saved
from ssgear.errors import DataError
from ssgear.storage.checkpoint import write_manifest
from tests.data.pictures import write, write_classes

REAL, SYNTHETIC = 30, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = write_classes(tmp_path_factory.mktemp("forty"), {"a": 20, "b": 20})
    return open_source(DataConfig(path=root, test_share=0), "train")


def reader(*gone: int) -> Callable[[int], int]:
    """Read an image as its number; those that are gone cannot be read."""

    def read(index: int) -> int:
        if index in gone:
            raise BadImageError(f"{index} is gone")
        return index

    return read


def rows(source: Source, order: list[int], *gone: int, lost: tuple[int, ...] = ()) -> Rows[int]:
    items = Items(
        index=torch.tensor(order) % (REAL + SYNTHETIC),
        draw=torch.tensor(order),
        position=torch.arange(len(order)),
    )
    return Rows(source, items, reader(*gone), key=5, counts=(REAL, SYNTHETIC), lost=lost)


def read_all(batch: Rows[int]) -> list[int]:
    return [*(place for row in range(len(batch.items.index)) for place in batch.read(row))]


def test_what_can_be_read_stays(source: Source) -> None:
    batch = rows(source, [3, 35, 0])
    assert read_all(batch) == [3, 35, 0] == batch.items.index.tolist()
    assert batch.found == []


def test_another_image_stands_in_whoever_meets_it(source: Source) -> None:
    batch = rows(source, [3, 7, 35, 0], 7, 35)
    made = read_all(batch)
    assert made[0] == 3 and made[3] == 0 and batch.items.index.tolist() == made
    assert made[1] != 7 and made[1] < REAL <= made[2] and made[2] != 35
    assert batch.items.draw.tolist() == [3, 7, 35, 0] and batch.items.position[1] == 1
    assert batch.found == [(7, "7 is gone"), (35, "35 is gone")]
    for order, known in (([35, 7], ()), ([7], (7,)), ([2, 7, 9, 35], (35, 7))):
        again = read_all(rows(source, order, 7, 35, lost=known))
        assert dict(zip(order, again, strict=True))[7] == made[1]
        assert 35 not in order or dict(zip(order, again, strict=True))[35] == made[2]
    assert rows(source, [7], lost=(7,)).read(0) == {made[1]: made[1]}, "lost stays lost"


def test_a_stand_in_that_is_lost_too_has_one_of_its_own(source: Source) -> None:
    (first,) = rows(source, [7], 7).read(0)
    batch = rows(source, [7], 7, first)
    assert not {7, first} & set(batch.read(0))
    assert batch.found == [(7, "7 is gone"), (first, f"{first} is gone")]


def test_repeats_of_an_image_have_different_stand_ins(source: Source) -> None:
    total = REAL + SYNTHETIC
    made = read_all(rows(source, [7 + total * repeat for repeat in range(12)], 7))
    assert len(set(made)) > 4 and all(place < REAL for place in made)


def test_stand_ins_are_spread_evenly(source: Source) -> None:
    made = read_all(rows(source, [7 + 40 * repeat for repeat in range(600)], 7))
    counts = torch.bincount(torch.tensor(made), minlength=REAL)
    assert counts[7] == 0 and len(counts) == REAL
    # 600 draws of 29: 21 each; six deviations of 4.5
    assert counts[torch.arange(REAL) != 7].sub(600 / 29).abs().max() < 6 * 4.5


def test_a_disk_that_is_gone(source: Source) -> None:
    batch = rows(source, [7], *range(40))
    with pytest.raises(DataError) as caught:
        batch.read(0)
    assert "is the disk still there?" in str(caught.value) and "a/15.png" in str(caught.value)
    assert 2 <= len(batch.found) <= 1 + TRIES


def test_they_are_counted_and_too_many_are_refused(source: Source) -> None:
    lost = LostImages(source, 0.05)
    lost.add([(3, "empty file"), (5, "cut")])
    lost.add([(3, "empty file")])
    assert lost.untold() == [(3, "empty file"), (5, "cut")] and lost.untold() == []
    lost.add([(3, "empty file"), (5, "cut")], told=True)
    assert lost.untold() == [] and set(lost.reasons) == {3, 5}
    with pytest.raises(DataError) as caught:
        lost.add([(9, "gone")])
    told = str(caught.value)
    assert "3 images can no longer be read and 0 never could, 7.5 % of 40" in told
    assert "--data.max-bad-share allows 5 %" in told and f"{source.where(9)}: gone" in told


def test_bad_files_of_the_scan_count_too(source: Source) -> None:
    lost = LostImages(source.without([(0, "empty"), (1, "empty")]), 0.05)
    with pytest.raises(DataError, match="1 images can no longer be read and 2 never could"):
        lost.add([(7, "gone")])


def test_a_checkpoint_names_them(source: Source) -> None:
    lost = LostImages(source, 0.1)
    lost.add([(39, "cut"), (5, "empty file")])
    again = LostImages(source, 0.1, lost.files())
    assert again.reasons == lost.reasons and again.untold() == []
    assert lost.files()[0] == BadFile(source.where(39), "cut")


ODD = ("line\nbreak.png", "no utf-8 \udcff.png", "line\\nbreak.png", "é ü.png", "plain.png")
"""The third is how the first is printed."""


def test_names_of_any_bytes_survive_a_checkpoint(tmp_path: Path) -> None:
    root = write(tmp_path / "odd \udcfe", [*ODD, "other 1.png", "other 2.png"])
    config = DataConfig(path=root, test_share=0)
    source = open_source(config, "train")
    lost = LostImages(source)
    names = [source.own_name(index) for index in range(len(source))]
    gone = [names.index(ODD[0]), names.index(ODD[1])]
    lost.add([(index, "vanished") for index in gone])
    assert all("\n" not in file.where and file.where.isprintable() for file in lost.files())
    files = [(file.name, file.reason) for file in lost.files()]
    write_manifest(tmp_path, {"step": 1, "lost": files})
    known = read_saved(tmp_path).lost
    for name in ODD[:2]:
        (root / name).unlink()
    again = open_source(config, "train", known)
    assert [again.own_name(index) for index in range(len(again))] == names
    assert LostImages(again, 1.0, known).reasons == lost.reasons
    scanned, sizes = scan(again, config, lost=known)
    assert len(scanned) == len(source) and not scanned.bad
    assert (sizes == 1).all(1).nonzero()[:, 0].tolist() == sorted(gone)


def test_a_file_that_vanished_keeps_its_number(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 12, "b": 9})
    config = DataConfig(path=root, test_share=0.25)
    before = {split: open_source(config, split) for split in ("train", "test")}  # type: ignore[arg-type]
    lost = LostImages(before["train"])
    lost.add([(4, "vanished"), (9, "vanished")])
    for file in lost.files():
        Path(file.where).unlink()
    for split, source in before.items():
        again = open_source(config, split, lost.files())  # type: ignore[arg-type]
        names = [again.where(index) for index in range(len(again))]
        assert names == [source.where(index) for index in range(len(source))]
        assert source.labels is not None and again.labels is not None
        assert torch.equal(again.labels, source.labels)
    assert len(open_source(config, "train")) < len(before["train"])


# view mixing: places 40 on are stored views


def mixed(source: Source, shown: list[list[int]], *gone: int, **more: bool) -> Rows[int]:
    items = Items(
        index=torch.tensor([7, 35, 2]),
        draw=torch.tensor([7, 35, 2]),
        position=torch.arange(3),
        rows=torch.tensor(shown),
        generated=torch.tensor(shown) >= REAL,
    )
    counts = (REAL, SYNTHETIC)
    return Rows(source, items, reader(*gone), key=5, counts=counts, lost=(), **more)


def test_a_lost_stored_view_gives_way_to_its_image(source: Source) -> None:
    batch = mixed(source, [[7, 35, 2], [50, 51, 52]], 50, 52)
    assert [set(batch.read(row)) for row in range(3)] == [{7}, {35, 51}, {2}]
    assert batch.items.rows is not None and batch.items.generated is not None
    assert batch.items.rows.tolist() == [[7, 35, 2], [7, 51, 2]]
    assert batch.items.generated.tolist() == [[False, True, False], [False, True, False]]
    assert batch.items.index.tolist() == [7, 35, 2]
    assert [batch.changed(row) for row in range(3)] == [True, False, True]
    assert [place for place, _ in batch.found] == [50, 52]


def test_a_lost_image_goes_with_all_its_views(source: Source) -> None:
    other = rows(source, [7], 7).read(0).popitem()[0]
    batch = mixed(source, [[7, 35, 50], [50, 51, 52]], 7)
    assert other in batch.read(0)
    assert [set(batch.read(row)) for row in range(3)] == [{other}, {35, 51}, {50, 52}]
    assert batch.items.rows is not None and batch.items.generated is not None
    assert batch.items.rows[:, 0].tolist() == [other, other]
    assert batch.items.generated[:, 0].tolist() == [False, False]
    assert batch.items.index.tolist() == [other, 35, 2]
    again = mixed(source, [[7, 35, 50], [50, 51, 52]], 7, 50)
    assert other in again.read(0) and again.items.index[0] == other, "view and image"


def test_an_image_of_which_only_stored_views_show_is_read_where_it_is_asked_for(
    source: Source,
) -> None:
    shown = [[7, 35, 50], [50, 51, 52]]
    assert set(mixed(source, shown, 2).read(2)) == {50, 52}
    assert set(mixed(source, shown, needs_index=True).read(2)) == {2, 50, 52}
    batch = mixed(source, shown, 2, needs_index=True)
    made, index = batch.read(2), int(batch.items.index[2])
    assert index in made and index != 2
    assert batch.items.rows is not None and batch.items.rows[:, 2].tolist() == [index, index]
