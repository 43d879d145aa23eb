"""From file names to splits and classes: the rules for folders, and for tars of them.

Folders that all images share are passed over (`photos.tar` holds `photos/cat/1.jpg`). Below them,
`train/` with `test/`, `val/`, `validation/` or `valid/` are the splits; else a share of every class
is held out. The first folder of a split's images is their class, whatever is nested below it.
Images without a folder have no label; where only some have one, none is used and a note says so. A
single class tells nothing and counts as no label. Tiny ImageNet's own layout keeps the labels of
`val/` in `val_annotations.txt`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssgear.data.sources.listing import Listing
from ssgear.data.sources.names import Names, shared_folders
from ssgear.errors import DataError, did_you_mean

Rows = NDArray[np.int64]
"""Numbers of images in a listing, ascending."""

TEST_FOLDERS = ("test", "val", "validation", "valid")
"""Names of a test split; the first that has classes where train/ has some, else the first."""
_TINY_TRAIN = re.compile(r"(.*/|)train/n\d{8}/images/[^/]+")
_TINY_ANNOTATIONS = re.compile(r"(.*/|)val_annotations\.txt")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of a split."""

    rows: Rows
    """Their numbers in the listing."""
    keys: tuple[str, ...] | None = None
    """The classes, each once, or None."""
    codes: NDArray[np.int64] | None = None
    """[n] class of each image: its place in the keys."""
    notes: tuple[str, ...] = ()
    """What a user should know."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The splits of a folder."""

    train: Part
    """Training images."""
    test: Part | None
    """Test images, where there is a split of them."""
    titles: Mapping[str, str] | None = None
    """Class as people call it by class as files have it."""

    @property
    def keys(self) -> tuple[str, ...] | None:
        """The classes of the training images in the order of the labels; None without labels."""
        found = set(self.train.keys or ())
        return tuple(sorted(found, key=_number_then_text)) if len(found) > 1 else None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes as people call them; one name for two gets the files' name added."""
        titles, keys = self.titles or {}, self.keys
        if keys is None:
            return None
        plain = [titles.get(key, key) for key in keys]
        return tuple(
            title if plain.count(title) == 1 else f"{title} ({key})"
            for title, key in zip(plain, keys, strict=True)
        )


def folder_layout(listing: Listing, labels: Mapping[str, str] | None = None) -> Layout:
    """Apply the rules for folders; labels from elsewhere replace the class folders."""
    names, shared = listing.images, listing.shared
    splits: dict[str, list[Rows]] = {}
    for head, rows in _heads(names, np.arange(len(names)), shared):
        splits.setdefault(head.lower(), []).append(rows)
    tests = [name for name in TEST_FOLDERS if name in splits]
    if "train" not in splits or not tests:
        return Layout(train=_part(listing, np.arange(len(names)), labels), test=None)
    train = _part(listing, np.concatenate(splits["train"]), labels)
    parts = {
        name: _part(listing, np.concatenate(splits[name]), labels, train.keys or ())
        for name in tests
    }
    labelled = [name for name in tests if train.keys and parts[name].keys]
    chosen = (labelled or tests)[0]
    unused = len(names) - len(train.rows) - len(parts[chosen].rows)
    if unused:
        note = f"{unused} images outside {shared}train/ and {shared}{chosen}/ are not used"
        train = replace(train, notes=(*train.notes, note))
    return Layout(train=train, test=parts[chosen])


def tiny_imagenet_layout(listing: Listing) -> Layout | None:
    """Read `train/WNID/images/`, `val/images/`, `val_annotations.txt`, `words.txt`, else None."""
    first = _first(_TINY_TRAIN, listing.images, b"/images/")
    if first is None:
        return None
    prefix = first[1]
    train = _by_head(listing.images, listing.images.below(f"{prefix}train/"), f"{prefix}train/")
    titles = {}
    if listing.others.find(f"{prefix}words.txt") is not None:
        lines = (line.partition("\t") for line in listing.text(f"{prefix}words.txt").splitlines())
        titles = {wnid: words.split(",")[0].strip() for wnid, _, words in lines}
    return Layout(train=train, test=annotated_part(listing, train.keys or ()), titles=titles)


def annotated_part(listing: Listing, known: Collection[str]) -> Part | None:
    """Read the images beside a `val_annotations.txt`; those of classes not known are left out."""
    found = _first(_TINY_ANNOTATIONS, listing.others, b"val_annotations.txt")
    if found is None:
        return None
    folder = f"{found[1]}images/"
    lines = (line.split("\t") for line in listing.text(found[0]).splitlines() if line.strip())
    label_of = {f"{folder}{fields[0]}": fields[1] for fields in lines if len(fields) > 1}
    rows = listing.images.below(folder)
    names = [listing.images[row] for row in rows]
    missing = [name for name in names if name not in label_of]
    if missing:
        raise DataError(
            f"{listing.root}: {len(missing)} images have no line in {found[0]}, {missing[0]} first"
        )
    classes = set(known)
    keep = np.array([label_of[name] in classes for name in names], dtype=bool)
    left = len(names) - int(keep.sum())
    if left == len(names):
        return None
    notes = (f"{left} validation images of classes without training images are left out",)
    keys = [label_of[names[place]] for place in keep.nonzero()[0]]
    return _coded(rows[keep], keys, notes if left else ())


def separate_part(listing: Listing, keys: Sequence[str] | None) -> Part:
    """Return the images of a folder of test images whose classes are those of training."""
    annotated = annotated_part(listing, keys or ())
    return annotated or _part(listing, np.arange(len(listing.images)), None, keys or ())


def hold_out(listing: Listing, part: Part, share: float) -> tuple[Part, Part]:
    """Split off a share of every class: at least one image, never all of them.

    Which ones depends on each image's name and class alone, by their hashes, so that a new image
    moves few others.
    """
    codes = np.zeros_like(part.rows) if part.codes is None else part.codes
    digests, held = listing.digests[part.rows], np.zeros(len(part.rows), dtype=bool)
    sizes = np.bincount(codes)
    # images of a class beside each other; they mostly are, and then this takes no time
    by_class = np.argsort(codes, kind="stable")
    for some in np.split(by_class, np.cumsum(sizes)[:-1]) if share > 0 else ():
        count = min(max(1, round(share * len(some))), len(some) - 1)
        held[some[np.argsort(digests[some], kind="stable")[: max(0, count)]]] = True
    return _some(part, ~held), _some(part, held)


def labels_of(part: Part, keys: Sequence[str] | None, where: str) -> NDArray[np.int64] | None:
    """Return the labels of a split by the classes of the training images."""
    if keys is None or part.keys is None or part.codes is None:
        return None
    number = {key: label for label, key in enumerate(keys)}
    unknown = sorted(set(part.keys) - set(keys))
    if unknown:
        raise DataError(
            f"{where}: class {unknown[0]!r} of the test images is none of the {len(keys)} classes "
            f"of the training images{did_you_mean(unknown[0], keys)}"
        )
    return np.array([number[key] for key in part.keys], dtype=np.int64)[part.codes]


def _part(
    listing: Listing,
    rows: Rows,
    labels: Mapping[str, str] | None,
    keep: Collection[str] = (),
) -> Part:
    """Return a split: labels as given, else by the first folder that not all images share."""
    names = listing.images
    if labels is not None:
        keys = _given(listing, [names[row] for row in rows], labels)
        return Part(rows=rows) if keys is None else _coded(rows, keys)
    shared = shared_folders(names[rows[0]], names[rows[-1]], keep)
    part = _by_head(names, rows, shared)
    if part.keys is None or part.codes is None or "" not in part.keys:
        return part
    flat = int((part.codes == part.keys.index("")).sum())
    note = (
        f"{flat} of {len(rows)} images stand in {listing.root.name}/{shared} itself, beside "
        "folders: no labels are used (--data.labels FILE names them)"
    )
    return Part(rows=rows, notes=(note,) if flat < len(rows) else ())


def _by_head(names: Names, rows: Rows, folder: str) -> Part:
    """Return a split whose classes are the first folders below one; "" for images in itself."""
    number: dict[str, int] = {}
    codes = np.empty(len(rows), dtype=np.int64)
    start = 0
    for head, some in _heads(names, rows, folder):
        codes[start : start + len(some)] = number.setdefault(head, len(number))
        start += len(some)
    return Part(rows=rows, keys=tuple(number), codes=codes)


def _heads(names: Names, rows: Rows, folder: str) -> Iterator[tuple[str, Rows]]:
    """Return the first folders below one, or "" for images in itself, with their images.

    In the order of the images, which are sorted by name: a folder's are found by bisection. A name
    comes more than once where another split's images stand between, or images of the folder itself.
    """
    low = 0
    if _is_flat(names, rows, folder):
        low = len(rows)
        yield "", rows
    while low < len(rows):
        name = names[rows[low]]
        head, slash, _ = name[len(folder) :].partition("/")
        high = low + 1
        if slash:
            # "0" comes after "/"
            after = f"{name[: len(folder)]}{head}0"
            high = bisect_left(rows, after, high, key=names.__getitem__)
        yield head if slash else "", rows[low:high]
        low = high


def _is_flat(names: Names, rows: Rows, folder: str) -> bool:
    """Whether all of these images stand in a folder itself, found without a look at each name."""
    first, last = int(rows[0]), int(rows[-1])
    slashes = names.text.count(b"/", int(names.bounds[first]), int(names.bounds[last + 1]))
    return last - first + 1 == len(rows) and slashes == folder.count("/") * len(rows)


def _coded(rows: Rows, keys: Sequence[str], notes: tuple[str, ...] = ()) -> Part:
    """Return a split whose images have these classes."""
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([number[key] for key in keys], dtype=np.int64)
    return Part(rows=rows, keys=tuple(number), codes=codes, notes=notes)


def _given(listing: Listing, names: Sequence[str], labels: Mapping[str, str]) -> list[str] | None:
    """Return the labels of a split that a file names; all of its images have one, or none."""
    missing = [name for name in names if name not in labels]
    if missing and len(missing) < len(names):
        raise DataError(
            f"--data.labels: {len(missing)} of {len(names)} images of {listing.root} have no line, "
            f"{', '.join(missing[:3])} first; add them, or remove the images"
        )
    return None if missing else [labels[name] for name in names]


def _first(pattern: re.Pattern[str], names: Names, part: bytes) -> re.Match[str] | None:
    """Return the match of the first name that a pattern fits; only those with the part can."""
    # a million names are searched at once for what few sets have
    if part not in names.text:
        return None
    return next(filter(None, map(pattern.fullmatch, names)), None)


def _some(part: Part, keep: NDArray[np.bool_]) -> Part:
    codes = None if part.codes is None else part.codes[keep]
    return replace(part, rows=part.rows[keep], codes=codes)


def _number_then_text(key: str) -> tuple[float, str]:
    return (int(key) if key.isdecimal() else float("inf"), key)
