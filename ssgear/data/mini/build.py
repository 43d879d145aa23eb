"""Make the archive of embedded images again from the whole set.

    python -m ssgear.data.mini.build TRAIN_TAR TEST_TAR [--output FILE]

The tars hold `train/CLASS/NUMBER.jpg` and `test/CLASS/NUMBER.jpg`. The first 400 and the first 100
images of every class are taken, in the order of their names and byte for byte, into a zip file
without compression (JPEGs do not shrink) and without dates: the same tars give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections import Counter
from pathlib import Path

from ssgear.data.sources.listing import list_tar
from ssgear.storage.atomic import write_bytes

PER_CLASS = {"train": 400, "test": 100}
"""Images of each class that are taken."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first date that a zip file can have."""


def build(train_tar: Path, test_tar: Path) -> bytes:
    """Return the archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path, count in zip((train_tar, test_tar), PER_CLASS.values(), strict=True):
            for name, data in first_of_each_class(path, count):
                info = zipfile.ZipInfo(name, _EPOCH)
                # Unix, rw-r--r--, whatever machine this runs on
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, data)
    return file.getvalue()


def first_of_each_class(path: Path, count: int) -> list[tuple[str, bytes]]:
    """Return name and content of the first images of every folder of a tar."""
    listing = list_tar(path)
    taken: Counter[str] = Counter()
    reader, chosen = listing.reader(), []
    for row, name in enumerate(listing.images):
        folder = name.rpartition("/")[0]
        taken[folder] += 1
        if taken[folder] <= count:
            chosen.append((name, reader.encoded(row)))
    return chosen


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(prog="python -m ssgear.data.mini.build")
    parser.add_argument("train_tar", type=Path, help="tar of train/CLASS/NUMBER.jpg")
    parser.add_argument("test_tar", type=Path, help="tar of test/CLASS/NUMBER.jpg")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images.zip")
    options = parser.parse_args()
    data = build(options.train_tar, options.test_tar)
    write_bytes(options.output, data)
    print(f"{options.output}: {len(data)} bytes")


if __name__ == "__main__":
    main()
