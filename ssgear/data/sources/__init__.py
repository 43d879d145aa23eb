"""Where images come from: data sets by name, folders, shards, arrays; names, labels, bad files."""

from ssgear.data.sources.loading import decode_all, load_images, scan
from ssgear.data.sources.open import (
    SOURCES,
    DataSet,
    check_source,
    has_labelled_part,
    open_probe_source,
    open_source,
)
from ssgear.data.sources.source import BadFile, Source

__all__ = [
    "SOURCES",
    "BadFile",
    "DataSet",
    "Source",
    "check_source",
    "decode_all",
    "has_labelled_part",
    "load_images",
    "open_probe_source",
    "open_source",
    "scan",
]
