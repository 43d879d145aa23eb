"""What tars of all kinds hold, and which files are none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssgear.data.sources.listing import list_files, list_tar, list_zip
from ssgear.errors import DataError
from tests.data.pictures import pack, picture, write


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_of_tar(tmp_path: Path, kind: int) -> None:
    long = "a" * 60 if kind == tarfile.USTAR_FORMAT else "größe" * 30
    with tarfile.open(tmp_path / "x.tar", "w", format=kind) as archive:
        for seed, name in enumerate([f"./{long}/{'b' * 50}.png", "z.png", "z.png"]):
            data = picture(seed)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    listing = list_tar(tmp_path / "x.tar")
    assert list(listing.images) == [f"{long}/{'b' * 50}.png", "z.png"]
    reader = listing.reader()
    assert reader.encoded(0) == picture(0)
    assert reader.encoded(1) == picture(2), "the last of a name counts, as when it is unpacked"


def test_links_in_a_tar(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", ["a.png"])
    (folder / "same.png").hardlink_to(folder / "a.png")
    (folder / "soft.png").symlink_to("a.png")
    (folder / "sub").mkdir()
    listing = list_tar(pack(folder, tmp_path / "p.tar", "p"))
    assert list(listing.images) == ["p/a.png", "p/same.png"]
    reader = listing.reader()
    assert reader.encoded(0) == reader.encoded(1) == (folder / "a.png").read_bytes()


def test_no_member_leaves_its_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../up.png", "/top/a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    assert list(list_tar(tmp_path / "x.tar").images) == ["b.png", "top/a.png"]


@pytest.mark.parametrize(
    ("name", "compress"),
    [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)],
)
def test_compressed_tars_are_refused(tmp_path: Path, name: str, compress: type[bytes]) -> None:
    plain = pack(write(tmp_path / "p", ["a.png"]), tmp_path / "p.tar", "p").read_bytes()
    (tmp_path / "x.tar").write_bytes(compress(plain))
    with pytest.raises(DataError, match=rf"is compressed \({name}\).*decompress it"):
        list_files(tmp_path / "x.tar", "--data.path")


def test_one_image_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "photo.JPEG").write_bytes(picture())
    with pytest.raises(DataError, match=r"photo\.JPEG: is one image; name the folder"):
        list_files(tmp_path / "photo.JPEG", "--data.path")


def test_zip_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", picture())
    with pytest.raises(DataError, match="unpack it"):
        list_files(tmp_path / "x.zip", "--data.path")
    listing = list_zip(tmp_path / "x.zip")
    assert listing.reader().encoded(0) == picture()


@pytest.mark.parametrize("damage", ["in a file", "in a header", "between files", "a header's byte"])
def test_a_damaged_tar(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path / "p", [f"{number}.png" for number in range(20)])
    path = pack(folder, tmp_path / "p.tar", "p")
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        start = archive.getmembers()[12].offset
    if damage == "a header's byte":
        path.write_bytes(data[: start + 5] + b"\xff" + data[start + 6 :])
    else:
        path.write_bytes(data[: start + {"in a file": 600, "in a header": 100}.get(damage, 0)])
    with pytest.raises(DataError, match=r"no whole tar file .*files found") as caught:
        list_tar(path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    write(tmp_path, ["a.png"])
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        list_files(tmp_path, "--data.path")


def test_other_files_can_be_read_as_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", ["a.png"])
    (folder / "words.txt").write_bytes("\ufeffgrün".encode())
    for path in (folder, pack(folder, tmp_path / "p.tar", "p")):
        listing = list_files(path, "--data.path")
        assert listing.text(listing.others[0]) == "grün"
