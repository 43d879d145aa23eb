"""What files there are: below a folder, in a tar, in the zip of the embedded images.

A listing is only names (relative, with `/`, sorted) and where each file's bytes are, so that the
same rules (data/layout.py) make the same data set of a folder and of its tar. Hidden files and what
is no regular file are passed over.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssgear.data.decode import EXTENSIONS, is_image_name
from ssgear.data.readers import ArchiveReader, FolderReader, printable
from ssgear.errors import DataError

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_ZIP = b"PK\x03\x04"

Span = tuple[int, int]
"""Offset and length of a file in an archive."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder or an archive."""

    root: Path
    """The folder or archive."""
    images: Sequence[str]
    """Names of images, sorted."""
    others: Sequence[str]
    """Names of other files, sorted."""
    spans: Mapping[str, Span] | None = None
    """Places in the archive; None for a folder."""

    def reader(self, names: Iterable[str]) -> FolderReader | ArchiveReader:
        """Return a reader of some of the files, in the order given."""
        names = list(names)
        if self.spans is None:
            return FolderReader(self.root, names)
        return ArchiveReader(self.root, names, (self.spans[name] for name in names))

    def with_images(self, where: Iterable[str]) -> Listing:
        """Return the listing of a folder with images that were there, by path, added."""
        root = f"{self.root}/"
        added = {path.removeprefix(root) for path in where if path.startswith(root)}
        if not added or self.spans is not None:
            return self
        return replace(self, images=sorted({*self.images, *added}))

    def text(self, name: str) -> str:
        """Return the content of a text file."""
        return self.reader([name]).encoded(0).decode("utf-8-sig", "replace")


def list_files(path: Path, option: str) -> Listing:
    """List a folder or a tar; the option names who asked for it."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{option}: {path} does not exist; name a folder of images or a tar of one")
    listing = list_folder(path) if path.is_dir() else list_tar(path)
    if not listing.images:
        raise DataError(
            f"{option}: {path} holds no image ({len(listing.others)} other files are there); "
            f"images are files that end in {', '.join(EXTENSIONS)}"
        )
    return listing


def list_folder(root: Path) -> Listing:
    """List the files below a folder; links are followed, none of them twice."""
    return _listing(root, _walk(root), None)


def list_tar(path: Path) -> Listing:
    """List an uncompressed tar file. One pass over its headers; nothing is unpacked."""
    _refuse_other_archives(path)
    spans: dict[str, Span] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # a million headers are not to be kept
                archive.members.clear()  # type: ignore[attr-defined]
                name = _plain(member.name)
                if member.islnk() and _plain(member.linkname) in spans:
                    spans[name] = spans[_plain(member.linkname)]
                elif member.isreg() and not member.issparse():
                    spans[name] = (member.offset_data, member.size)
            _require_end_mark(path, archive.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path}: is no folder and no whole tar file ({error}; {len(spans)} files found)"
        ) from error
    return _listing(path, spans, spans)


def list_zip(path: Path) -> Listing:
    """List a zip file of stored members without extra fields, as `data/mini/build.py` writes."""
    with zipfile.ZipFile(path) as archive:
        spans = {
            info.filename: (info.header_offset + 30 + len(info.filename.encode()), info.file_size)
            for info in archive.infolist()
        }
    return _listing(path, spans, spans)


def _listing(root: Path, names: Iterable[str], spans: Mapping[str, Span] | None) -> Listing:
    images: list[str] = []
    others: list[str] = []
    for name in sorted(names):
        if not any(part.startswith(".") for part in name.split("/")):
            (images if is_image_name(name) else others).append(name)
    return Listing(root=root, images=images, others=others, spans=spans)


def _plain(name: str) -> str:
    """Return a member's name without `./`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _walk(root: Path) -> Iterator[str]:
    seen, folders = set(), [""]
    while folders:
        folder = folders.pop()
        try:
            here = os.stat(root / folder)
            if (here.st_dev, here.st_ino) in seen:
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    try:
                        is_folder, is_file = entry.is_dir(), entry.is_file()
                    except OSError:  # a link to itself, as useless as one to nothing
                        continue
                    if is_folder:
                        folders.append(f"{folder}{entry.name}/")
                    elif is_file:
                        yield folder + entry.name
        except OSError as error:
            where = printable(str(root / folder))
            raise DataError(f"{where}: cannot be listed: {error.strerror}") from error


def _require_end_mark(path: Path, offset: int) -> None:
    """Refuse a tar without its end mark: a damaged or cut header looks like an end to `tarfile`."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"damaged or cut at byte {offset}")


def _refuse_other_archives(path: Path) -> None:
    """Say what to do with an archive that cannot be read at any place."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: is compressed ({kind}), so that no image can be read without all before "
                "it; decompress it to a plain .tar, or unpack it into a folder"
            )
    if start.startswith(_ZIP):
        raise DataError(f"{path}: is a zip file; unpack it and name the folder")
