from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ssgear.errors import DataError
from ssgear.storage.shards import list_members, read_span, spans, tar_blocks

FILES = [("a.0.webp", b"x" * 513), ("a.0.json", b"{}"), ("b.0.webp", b""), ("b.0.json", b"y" * 512)]


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join(tar_blocks(members))


def test_members_are_read_back_at_their_places(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes(FILES))
    members = list_members(path)
    assert [member.name for member in members] == [name for name, _ in FILES]
    for member, (_, data) in zip(members, FILES, strict=True):
        assert read_span(path, member.offset, member.size) == data
    with tarfile.open(path) as archive:  # an independent reader
        for info, (name, data) in zip(archive.getmembers(), FILES, strict=True):
            file = archive.extractfile(info)
            assert info.name == name and file is not None and file.read() == data


@pytest.mark.parametrize("count", [0, 1, 4, 20])
def test_the_bytes_are_those_that_tarfile_writes(count: int) -> None:
    members = (FILES * 5)[:count]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    assert tar_bytes(members) == file.getvalue()


def test_places_follow_from_sizes(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(tar_bytes(FILES))
    sizes = np.array([len(data) for _, data in FILES])
    assert spans(sizes).tolist() == [m.offset for m in list_members(tmp_path / "s.tar")]


def test_one_member_is_asked_for_at_a_time() -> None:
    asked: list[str] = []

    def members() -> Iterator[tuple[str, bytes]]:
        for name, data in FILES:
            asked.append(name)
            yield name, data

    blocks = tar_blocks(members())
    for number in range(1, 5):
        header, data = next(blocks), next(blocks)
        assert len(header) == 512 and data == FILES[number - 1][1] and len(asked) == number
        next(blocks)


def test_bytes_depend_on_the_members_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tar_bytes(FILES)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert tar_bytes(FILES) == first != tar_bytes(FILES[::-1])


def test_no_file_and_cut_files_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "s.tar", tar_bytes(FILES)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list_members(path)
    last = list_members_of(path, data)[-1]
    for length in (0, 100, 512, 700, 1536, last.offset - 512, last.offset + 100, last.offset + 512):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged or cut"):
            list_members(path)
    with pytest.raises(DataError, match="ends before this file does"):
        read_span(path, last.offset, 5000)


def list_members_of(path: Path, data: bytes) -> list:  # type: ignore[type-arg]
    path.write_bytes(data)
    return list_members(path)


def test_damaged_headers_and_links_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "s.tar", bytearray(tar_bytes(FILES))
    data[130] ^= 1  # a digit of the first size
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"s\.tar: damaged or cut: bad checksum"):
        list_members(path)
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        archive.addfile(link)
    with pytest.raises(DataError, match="link is no plain file"):
        list_members(path)
