"""What files there are: below a folder, in a tar, in the zip of the embedded images.

A listing is only names (relative, with `/`, sorted) and where each file's bytes are, so that the
same rules (data/sources/layout.py) make the same data set of a folder and of its tar. Hidden files
and what is no regular file are passed over. A large listing is remembered (storage/cache.py) and
serves again as long as none of its folders has another time of change, or its tar another size or
time: adding, removing or renaming a file changes its folder's time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgear.data.sources.decode import EXTENSIONS, is_image_name
from ssgear.data.sources.names import Names, shared_folders
from ssgear.data.sources.readers import ArchiveReader, FolderReader
from ssgear.data.sources.tar import Span, tar_members
from ssgear.data.sources.walk import folders_changed, walk
from ssgear.errors import DataError
from ssgear.storage import cache

WORTH = 10_000
"""Files from which on a listing is remembered; fewer are listed in no time."""
_PLAIN = ("digests", "spans", "other_spans")
"""Arrays of a listing that are remembered as they are."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder, an archive, or a set of shards."""

    root: Path
    """The folder or archive."""
    images: Names
    """Names of images: sorted, but those of shards in their order."""
    others: Names
    """Names of other files, sorted."""
    digests: NDArray[np.uint64]
    """64 bits that stand for each image's name below the folders that all images share."""
    spans: NDArray[np.int64] | None = None
    """[N, 2] offset and length in the archive of each image; None for a folder."""
    other_spans: NDArray[np.int64] | None = None
    """The same of the other files."""
    paths: tuple[str, ...] = ()
    """The shards."""
    archives: NDArray[np.int32] | None = None
    """[N] the shard of each image, where there are several."""
    classes: tuple[str, ...] = ()
    """Classes that shards name."""
    codes: NDArray[np.int32] | None = None
    """[N] class of each image, by number; -1 where there is none. None but for shards."""

    @property
    def shared(self) -> str:
        """Folders that all images share, with `/` at the end; none in shards."""
        return _shared(self.images) if self.archives is None else ""

    def reader(self) -> FolderReader | ArchiveReader:
        """Return a reader of the images, in the order of the listing."""
        digests = self.digests ^ Names([self.shared]).digests()
        if self.spans is None:
            return FolderReader(self.root, self.images, digests)
        return ArchiveReader(
            self.root,
            self.images,
            self.spans,
            paths=self.paths,
            archives=self.archives,
            digests=digests,
        )

    def with_images(self, paths: Iterable[str]) -> Listing:
        """Return the listing of a folder with images that were there, by path, added."""
        root = f"{self.root}/"
        added = {path.removeprefix(root) for path in paths if path.startswith(root)}
        if not added or self.spans is not None:
            return self
        return _listing(self.root, {*self.images, *self.others, *added}, None)

    def text(self, name: str) -> str:
        """Return the content of another file, a text."""
        row = self.others.find(name)
        if row is None:
            raise DataError(f"{self.root}: has no {name}")
        reader = (
            FolderReader(self.root, Names([name]))
            if self.other_spans is None
            else ArchiveReader(self.root, Names([name]), self.other_spans[row][None])
        )
        return reader.encoded(0).decode("utf-8-sig", "replace")


def list_files(path: Path, option: str, *, remember: bool = True) -> Listing:
    """List a folder or a tar; the option names who asked for it."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{option}: {path} does not exist; name a folder of images or a tar of one")
    listing = (list_folder if path.is_dir() else list_tar)(path, remember=remember)
    if not len(listing.images):
        raise DataError(
            f"{option}: {path} holds no image ({len(listing.others)} other files are there); "
            f"images are files that end in {', '.join(EXTENSIONS)}"
        )
    return listing


def list_folder(root: Path, *, remember: bool = True) -> Listing:
    """List the files below a folder; links are followed, none of them twice."""
    entry = cache.load("folder", root) if remember else None
    if entry is not None and not folders_changed(root, entry):
        return _of_entry(root, entry)
    names, folders = walk(root)
    listing = _listing(root, names, None)
    if remember and folders is not None and len(names) >= WORTH:
        cache.save("folder", root, {}, {**folders, **_arrays(listing)})
    return listing


def list_tar(path: Path, *, remember: bool = True) -> Listing:
    """List an uncompressed tar file. One pass over its headers; nothing is unpacked."""
    stamp = cache.stamp_of(path) if remember else None
    entry = cache.load("tar", path) if stamp else None
    if entry is not None and entry.info["stamp"] == stamp:
        return _of_entry(path, entry)
    spans = tar_members(path)
    listing = _listing(path, spans, spans)
    if stamp and len(spans) >= WORTH:
        cache.save("tar", path, {"stamp": stamp}, _arrays(listing))
    return listing


def list_zip(path: Path) -> Listing:
    """List a zip file of stored members without extra fields, as `data/mini/build.py` writes."""
    with zipfile.ZipFile(path) as archive:
        spans = {
            info.filename: (info.header_offset + 30 + len(info.filename.encode()), info.file_size)
            for info in archive.infolist()
        }
    return _listing(path, spans, spans)


def _listing(root: Path, names: Iterable[str], spans: Mapping[str, Span] | None) -> Listing:
    found: tuple[list[str], list[str]] = ([], [])
    for name in sorted(names):
        if not name.startswith(".") and "/." not in name:
            found[is_image_name(name)].append(name)
    others, images = (Names(each) for each in found)
    if spans is None:
        places: list[NDArray[np.int64] | None] = [None, None]
    else:
        rows = ([spans[name] for name in each] for each in found)
        places = [np.array(each, dtype=np.int64).reshape(-1, 2) for each in rows]
    skip = len(_shared(images).encode("utf-8", "surrogateescape"))
    return Listing(
        root=root,
        images=images,
        others=others,
        digests=images.digests(skip),
        spans=places[1],
        other_spans=places[0],
    )


def _shared(images: Names) -> str:
    return shared_folders(images[0], images[-1]) if len(images) else ""


def _arrays(listing: Listing) -> dict[str, NDArray[Any]]:
    """Return what `_of_entry` makes the listing of."""
    plain = {kind: getattr(listing, kind) for kind in _PLAIN}
    kept = {kind: array for kind, array in plain.items() if array is not None}
    return {**kept, **listing.images.arrays("images"), **listing.others.arrays("others")}


def _of_entry(root: Path, entry: cache.Entry) -> Listing:
    images, others = (Names.of_arrays(kind, entry.arrays) for kind in ("images", "others"))
    # copied, so that the rest of the entry can go
    plain: dict[str, Any] = {
        kind: entry.arrays[kind].copy() for kind in _PLAIN if kind in entry.arrays
    }
    return Listing(root=root, images=images, others=others, **plain)
