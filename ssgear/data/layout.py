"""From file names to splits and classes: the rules for folders, and for tars of them.

Folders that all images share are passed over (`photos.tar` holds `photos/cat/1.jpg`). Below them,
`train/` with `test/`, `val/`, `validation/` or `valid/` are the splits; else a share of every class
is held out. The first folder of a split's images is their class, whatever is nested below it.
Images without a folder have no label; where only some have one, none is used and a note says so. A
single class tells nothing and counts as no label. Tiny ImageNet's own layout keeps the labels of
`val/` in `val_annotations.txt`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ssgear.data.listing import Listing
from ssgear.errors import DataError, did_you_mean

TEST_FOLDERS = ("test", "val", "validation", "valid")
"""Names of a test split; the first that has classes where train/ has some, else the first."""
_TINY_TRAIN = re.compile(r"(.*/|)train/n\d{8}/images/[^/]+")
_TINY_ANNOTATIONS = re.compile(r"(.*/|)val_annotations\.txt")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of a split."""

    names: tuple[str, ...]
    """Files."""
    keys: tuple[str, ...] | None
    """Class of each, or None."""
    notes: tuple[str, ...] = ()
    """What a user should know."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The splits of a folder."""

    train: Part
    """Training images."""
    test: Part | None
    """Test images, where there is a split of them."""
    prefix: str = ""
    """Folders that all images share, with `/` at the end."""
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
    prefix = shared_folders(listing.images)
    splits: dict[str, list[str]] = {}
    for name in listing.images:
        head, slash, _ = name[len(prefix) :].partition("/")
        splits.setdefault(head.lower() if slash else "", []).append(name)
    tests = [name for name in TEST_FOLDERS if name in splits]
    if "train" not in splits or not tests:
        return Layout(train=_part(listing, listing.images, labels), test=None, prefix=prefix)
    train = _part(listing, splits["train"], labels)
    parts = {name: _part(listing, splits[name], labels, train.keys or ()) for name in tests}
    labelled = [name for name in tests if train.keys and parts[name].keys]
    chosen = (labelled or tests)[0]
    unused = sum(len(names) for head, names in splits.items() if head not in ("train", chosen))
    if unused:
        note = f"{unused} images outside {prefix}train/ and {prefix}{chosen}/ are not used"
        train = replace(train, notes=(*train.notes, note))
    return Layout(train=train, test=parts[chosen], prefix=prefix)


def tiny_imagenet_layout(listing: Listing) -> Layout | None:
    """Read `train/WNID/images/`, `val/images/`, `val_annotations.txt`, `words.txt`, else None."""
    first = next(filter(None, map(_TINY_TRAIN.fullmatch, listing.images)), None)
    if first is None:
        return None
    prefix = first[1]
    start = len(f"{prefix}train/")
    names = tuple(name for name in listing.images if name.startswith(f"{prefix}train/"))
    keys = tuple(name[start:].partition("/")[0] for name in names)
    titles = {}
    if f"{prefix}words.txt" in listing.others:
        lines = (line.partition("\t") for line in listing.text(f"{prefix}words.txt").splitlines())
        titles = {wnid: words.split(",")[0].strip() for wnid, _, words in lines}
    train = Part(names=names, keys=keys)
    return Layout(train=train, test=annotated_part(listing, keys), prefix=prefix, titles=titles)


def annotated_part(listing: Listing, known: Collection[str]) -> Part | None:
    """Read the images beside a `val_annotations.txt`; those of classes not known are left out."""
    found = next(filter(None, map(_TINY_ANNOTATIONS.fullmatch, listing.others)), None)
    if found is None:
        return None
    folder = f"{found[1]}images/"
    lines = (line.split("\t") for line in listing.text(found[0]).splitlines() if line.strip())
    label_of = {f"{folder}{fields[0]}": fields[1] for fields in lines if len(fields) > 1}
    names = [name for name in listing.images if name.startswith(folder)]
    missing = [name for name in names if name not in label_of]
    if missing:
        raise DataError(
            f"{listing.root}: {len(missing)} images have no line in {found[0]}, {missing[0]} first"
        )
    classes = set(known)
    kept = tuple(name for name in names if label_of[name] in classes)
    left = len(names) - len(kept)
    notes = (f"{left} validation images of classes without training images are left out",)
    keys = tuple(label_of[name] for name in kept)
    return Part(names=kept, keys=keys, notes=notes if left else ()) if kept else None


def separate_part(listing: Listing, keys: Sequence[str] | None) -> Part:
    """Return the images of a folder of test images whose classes are those of training."""
    annotated = annotated_part(listing, keys or ())
    return annotated or _part(listing, listing.images, None, keys or ())


def hold_out(part: Part, share: float, prefix: str) -> tuple[Part, Part]:
    """Split off a share of every class: at least one image, never all of them.

    Which ones depends on each image's name and class alone, by their hashes, so that a new image
    moves few others.
    """
    groups: dict[str, list[int]] = {}
    keys = part.keys or ("",) * len(part.names)
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    held = set()
    for rows in groups.values():
        count = min(max(1, round(share * len(rows))), len(rows) - 1) if share > 0 else 0
        rows.sort(key=lambda row: _hash(part.names[row][len(prefix) :]))
        held.update(rows[:count])
    every = range(len(part.names))
    train = [row for row in every if row not in held]
    return _some(part, train), _some(part, sorted(held))


def shared_folders(names: Sequence[str], keep: Collection[str] = ()) -> str:
    """Return the folders that all of these sorted names begin with, up to one to keep."""
    shared = ""
    pairs = zip(names[0].split("/")[:-1], names[-1].split("/")[:-1], strict=False)
    for first, last in pairs:
        if first != last or first in keep:
            break
        shared += f"{first}/"
    return shared


def labels_of(part: Part, keys: Sequence[str] | None, where: str) -> list[int] | None:
    """Return the labels of a split by the classes of the training images."""
    if keys is None or part.keys is None:
        return None
    number = {key: label for label, key in enumerate(keys)}
    unknown = sorted(set(part.keys) - set(keys))
    if unknown:
        raise DataError(
            f"{where}: class {unknown[0]!r} of the test images is none of the {len(keys)} classes "
            f"of the training images{did_you_mean(unknown[0], keys)}"
        )
    return [number[key] for key in part.keys]


def _part(
    listing: Listing,
    names: Sequence[str],
    labels: Mapping[str, str] | None,
    keep: Collection[str] = (),
) -> Part:
    """Return a split: labels as given, else by the first folder that not all images share."""
    if labels is not None:
        return Part(names=tuple(names), keys=_given(listing, names, labels))
    prefix = shared_folders(names, keep)
    folders = [name[len(prefix) :].partition("/") for name in names]
    flat = sum(not slash for _, slash, _ in folders)
    if not flat:
        return Part(names=tuple(names), keys=tuple(folder for folder, _, _ in folders))
    note = (
        f"{flat} of {len(names)} images stand in {listing.root.name}/{prefix} itself, beside "
        "folders: no labels are used (--data.labels FILE names them)"
    )
    return Part(names=tuple(names), keys=None, notes=(note,) if flat < len(names) else ())


def _given(
    listing: Listing, names: Sequence[str], labels: Mapping[str, str]
) -> tuple[str, ...] | None:
    """Return the labels of a split that a file names; all of its images have one, or none."""
    missing = [name for name in names if name not in labels]
    if missing and len(missing) < len(names):
        raise DataError(
            f"--data.labels: {len(missing)} of {len(names)} images of {listing.root} have no line, "
            f"{', '.join(missing[:3])} first; add them, or remove the images"
        )
    return None if missing else tuple(labels[name] for name in names)


def _some(part: Part, rows: Sequence[int]) -> Part:
    keys = None if part.keys is None else tuple(part.keys[row] for row in rows)
    return replace(part, names=tuple(part.names[row] for row in rows), keys=keys)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _number_then_text(key: str) -> tuple[float, str]:
    return (int(key) if key.isdecimal() else float("inf"), key)
