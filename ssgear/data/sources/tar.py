"""The members of a tar file and where their bytes are: one pass over its headers."""

from __future__ import annotations

import tarfile
from pathlib import Path

from ssgear.data.sources.decode import EXTENSIONS
from ssgear.errors import DataError, refusing, unreadable

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ZIP = b"PK\x03\x04"

Span = tuple[int, int]
"""Offset and length of a file in an archive."""


def tar_members(path: Path) -> dict[str, Span]:
    """Return the place of every regular file of an uncompressed tar by its name, in its order.

    Of two members of one name the last counts, as when it is unpacked.

    Raises:
        DataError: it cannot be read, is compressed, cut, or no tar.
    """
    _refuse_other_archives(path)
    spans: dict[str, Span] = {}

    def refusal(error: Exception) -> DataError:
        return DataError(
            f"{path}: is no folder and no whole tar file ({error}; {len(spans)} files found)"
        )

    with refusing((tarfile.TarError, OSError), refusal), tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            # a million headers are not to be kept
            archive.members.clear()  # type: ignore[attr-defined]
            name = _plain(member.name)
            if member.islnk() and _plain(member.linkname) in spans:
                spans[name] = spans[_plain(member.linkname)]
            elif member.isreg() and not member.issparse():
                spans[name] = (member.offset_data, member.size)
        _require_end_mark(path, archive.offset)
    return spans


def _plain(name: str) -> str:
    """Return a member's name without `./`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _require_end_mark(path: Path, offset: int) -> None:
    """Refuse a tar without its end mark: a damaged or cut header looks like an end to `tarfile`."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"damaged or cut at byte {offset}")


def _refuse_other_archives(path: Path) -> None:
    """Say what to do with an image, or an archive that cannot be read at any place."""
    with refusing(OSError, unreadable(path)), open(path, "rb") as file:
        start = file.read(8)
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: is compressed ({kind}), so that no image can be read without all before "
                "it; decompress it to a plain .tar, or unpack it into a folder"
            )
    if start.startswith(_ZIP):
        raise DataError(f"{path}: is a zip file; unpack it and name the folder")
    if path.suffix.lower() in EXTENSIONS:
        raise DataError(f"{path}: is one image; name the folder that holds the images")
