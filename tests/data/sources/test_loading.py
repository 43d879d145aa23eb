"""Decoding and checking many images: what is read, what is skipped, and when it is too much."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.sources.decode import open_rgb, to_tensor
from ssgear.data.sources.loading import GREY, decode_all, load_images, load_readable, scan
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import BadFile, Source
from ssgear.data.sources.square import centre_squares
from ssgear.errors import DataError
from tests.data.pictures import encode, noise, pack, picture, write_classes

BAD = {"a/empty.jpg": "empty file", "b/text.jpg": "not an image", "b/cut.png": "damaged"}


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand images in two classes, three of them bad."""
    root = tmp_path_factory.mktemp("thousand")
    write_classes(root, {"a": 499, "b": 498}, side=4)
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "b" / "text.jpg").write_text("this is no image")
    (root / "b" / "cut.png").write_bytes(picture(side=4)[:60])
    return root


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_bad_files_are_named_counted_and_skipped(
    thousand: Path, tmp_path: Path, workers: int, packed: bool
) -> None:
    path = pack(thousand, tmp_path / "x.tar", "x") if packed else thousand
    config = DataConfig(path=path, test_share=0, workers=workers)
    source = open_source(config, "train")
    assert len(source) == 1000 and source.native_size == 4
    images, good = decode_all(source, config)
    scanned, sizes = scan(source, config)
    for part in (good, scanned):
        assert len(part) == 997 and part.labels is not None
        assert part.labels.bincount().tolist() == [499, 498]
        assert [bad.where.partition("x/")[2] or bad.where for bad in part.bad]
        for bad, (name, reason) in zip(part.bad, sorted(BAD.items()), strict=True):
            assert bad.where.endswith(name) and reason in bad.reason
    assert sizes.tolist() == [[4, 4]] * 997 and scanned.sizes is sizes and source.sizes is None
    assert source.bad == () and len(source) == 1000
    for row in (0, 498, 499, 996):
        assert torch.equal(images[row], good.decode(row))
        assert good.where(row) == scanned.where(row)


def test_what_was_skipped_stays_skipped(thousand: Path) -> None:
    config = DataConfig(path=thousand, test_share=0)
    scanned, _ = scan(open_source(config, "train"), config)
    images, good = decode_all(scanned, config)
    assert len(images) == 997 and good.bad == scanned.bad and len(good.bad) == 3
    assert good.subset(torch.arange(5)).bad == scanned.bad


@pytest.mark.parametrize("read", [decode_all, scan])
def test_too_many_bad_files(thousand: Path, read: Callable[[Source, DataConfig], object]) -> None:
    config = DataConfig(path=thousand, test_share=0, max_bad_share=0.002)
    with pytest.raises(DataError) as caught:
        read(open_source(config, "train"), config)
    told = str(caught.value)
    assert "3 of 1000 files (0.3 %)" in told and "--data.max-bad-share allows 0.2 %" in told
    assert all(name in told for name in BAD) and "\n" not in told


def test_only_bad_files(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        (tmp_path / name).write_bytes(b"")
    config = DataConfig(path=tmp_path, test_share=0, max_bad_share=1)
    source = open_source(config, "train")
    assert source.native_size is None
    with pytest.raises(DataError, match=r"4 of 4 files.*no image is left.*and 1 more"):
        scan(source, config)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    config = DataConfig(path=tmp_path, test_share=0, max_bad_share=0.5)
    source = open_source(config, "train")
    assert source.native_size == 8
    (tmp_path / "a" / "1.png").unlink()
    (tmp_path / "b" / "1.png").write_bytes(picture(side=9))
    _, good = decode_all(source, config)
    assert good.bad == (
        BadFile(str(tmp_path / "a" / "1.png"), "cannot be read: No such file or directory"),
        BadFile(str(tmp_path / "b" / "1.png"), "9 x 9 pixels, not 8 x 8"),
    )
    with pytest.raises(DataError, match=r"a/1\.png: cannot be read"):
        source.decode(1)
    with pytest.raises(DataError, match=r"a/1\.png: cannot be read"):
        source.encoded(1)


def test_a_tar_that_was_cut_after_it_was_opened(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "p", {"a": 3, "b": 3})
    path = pack(folder, tmp_path / "p.tar", "p")
    config = DataConfig(path=path, test_share=0, max_bad_share=0.5)
    source = open_source(config, "train")
    with tarfile.open(path) as archive:
        last = archive.getmember("p/b/2.png")
    with open(path, "r+b") as file:
        file.truncate(last.offset_data + 20)
    good, _ = scan(source, config)
    assert [bad.reason for bad in good.bad] == ["the archive ends before this file does"]


def test_sizes_are_upright(tmp_path: Path) -> None:
    shapes = [(20, 30), (31, 17), (40, 40)]
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (height, width) in enumerate(shapes):
        image = Image.fromarray(noise(height, width))
        (tmp_path / f"{number}.jpg").write_bytes(encode(image, "JPEG"))
        (tmp_path / f"{number}t.jpg").write_bytes(encode(image, "JPEG", exif=exif))
    config = DataConfig(path=tmp_path, test_share=0)
    source = open_source(config, "train")
    assert source.native_size is None
    good, sizes = scan(source, config)
    assert sizes.tolist() == [[20, 30], [30, 20], [31, 17], [17, 31], [40, 40], [40, 40]]
    assert [list(good.decode(row).shape[1:]) for row in range(6)] == sizes.tolist()
    part = good.subset(torch.tensor([3]))
    assert part.sizes is not None and part.sizes.tolist() == [[17, 31]]
    with pytest.raises(DataError, match=r"--data\.loader torch"):
        decode_all(source, config)


def test_load_images(tmp_path: Path) -> None:
    for number, shape in enumerate([(20, 30), (31, 17), (12, 12), (5, 5)]):
        (tmp_path / f"{number}.png").write_bytes(encode(Image.fromarray(noise(*shape))))
    source = open_source(DataConfig(path=tmp_path, test_share=0), "train")
    indices = torch.tensor([3, 0, 2, 1, 0] * 30)
    images = load_images(source, indices, 12, workers=2)
    assert images.shape == (150, 3, 12, 12) and images.dtype == torch.uint8
    for row in range(5):
        image = open_rgb(source.encoded(int(indices[row])))
        assert torch.equal(images[row], centre_squares(to_tensor(image)[None], 12)[0])
    assert torch.equal(images[2], source.decode(2)), "the right size is not resampled"
    assert torch.equal(images, load_images(source, indices, 12))
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: empty file"):
        load_images(source, indices, 12, workers=2)


def test_images_that_vanished_are_left_out_or_grey(tmp_path: Path) -> None:
    source = open_source(DataConfig(path=write_classes(tmp_path, {"a": 5}), test_share=0), "train")
    indices = torch.tensor([4, 0, 2, 1])
    every = load_images(source, indices, 8)
    images, kept = load_readable(source, indices, 8)
    assert torch.equal(images, every) and torch.equal(kept, indices)
    (tmp_path / "a" / "2.png").unlink()
    images, kept = load_readable(source, indices, 8)
    assert kept.tolist() == [4, 0, 1] and torch.equal(images, every[[0, 1, 3]])
    with_grey = load_images(source, indices, 8, missing=GREY)
    assert (with_grey[2] == GREY).all() and torch.equal(with_grey[[0, 1, 3]], images)


def test_nothing_is_drawn_where_there_is_no_terminal(
    thousand: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = DataConfig(path=thousand, test_share=0)
    decode_all(open_source(config, "train"), config)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    thousand: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    config = DataConfig(path=thousand, test_share=0)
    source = open_source(config, "train")
    decode_all(source, config)
    assert "Decoding" in capfd.readouterr().err
    decode_all(source, config, progress=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    decode_all(source, config)
    assert "Decoding" not in capfd.readouterr().err


def test_the_order_does_not_depend_on_the_threads(thousand: Path, tmp_path: Path) -> None:
    root = tmp_path / "some"
    shutil.copytree(thousand / "a", root / "a")
    config = DataConfig(path=root, test_share=0)
    images, good = decode_all(open_source(config, "train"), config)
    names = [good.where(row) for row in range(len(good))]
    assert names == sorted(names) and len(np.unique(images.flatten(1).numpy(), axis=0)) > 400
