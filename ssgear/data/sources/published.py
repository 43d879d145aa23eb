"""CIFAR-10, CIFAR-100 and STL-10 in their published formats, by torchvision's readers.

CIFAR's files are pickles, and unpickling a file runs what is in it. So every file is compared with
the MD5 sum of the published one *before* anything is unpickled: nobody can make another file with a
given sum (making two with the same one is what MD5 fails at), so what is unpickled are the bytes
that the authors published.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Split
from ssgear.errors import ConfigError, DataError, first_line, refusing, unreadable
from ssgear.storage.lock import claimed

FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "stl10": "stl10_binary",
}
"""The folder that each archive unpacks to."""
_CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
_STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_UNLABELED = "unlabeled_X.bin"
FOLDS = "fold_indices.txt"
"""Training images of each of STL-10's folds, numbered from 0, a line each."""


@dataclass(frozen=True)
class Files:
    """The files of a published set below the folder that holds it."""

    name: str
    """cifar10, cifar100 or stl10."""
    root: Path
    """Folder that holds (or gets) the set's own folder."""

    @property
    def folder(self) -> Path:
        """The set's own folder."""
        return self.root / FOLDERS[self.name]

    def reader(self) -> Any:
        """Return torchvision's class, told that the files have been compared already."""
        from torchvision import datasets

        base = getattr(datasets, _CLASSES[self.name])
        parts: dict[str, Any] = {"_check_integrity": lambda _: True}
        if self.name == "stl10" and not (self.folder / _UNLABELED).is_file():
            parts["train_list"] = [entry for entry in base.train_list if entry[0] != _UNLABELED]
        return type(base.__name__, (base,), parts)

    def problem(self) -> str | None:
        """Say what is wrong with the files, or None where all are the published ones."""
        from torchvision.datasets.utils import check_integrity

        reader = self.reader()
        wanted = [*reader.train_list, *reader.test_list]
        if self.name != "stl10":
            wanted.append([reader.meta["filename"], reader.meta["md5"]])
        for file, md5 in wanted:
            if not (self.folder / file).is_file():
                return f"{self.folder / file} is not there"
            if not check_integrity(str(self.folder / file), md5):
                return f"{self.folder / file} is not the published file (its MD5 sum differs)"
        return None


def read_published(name: str, config: DataConfig, part: Split) -> Images:
    """Read a published set; `--data.download` gets what is absent."""
    if config.path is None:
        raise ConfigError(
            f"--data.path: --data.source {name} needs the folder that holds {FOLDERS[name]} "
            "(--data.download fetches it into there)"
        )
    files = Files(name, _root(name, config.path.expanduser()))
    problem = files.problem()
    if problem and config.download:
        _download(files)
        problem = files.problem()
    if problem:
        raise DataError(
            f"--data.source {name}: {problem}; --data.path names the folder that holds "
            f"{FOLDERS[name]}, and --data.download fetches it"
        )
    return _read_cifar(files, part) if name != "stl10" else _read_stl10(files, part)


def read_folds(name: str, config: DataConfig) -> tuple[Tensor, ...]:
    """Return the rows of STL-10's predefined training folds; none for another set.

    Raises:
        DataError: the file of the folds is not there, or not the published one.
    """
    if name != "stl10" or config.path is None:
        return ()
    files = Files(name, _root(name, config.path.expanduser()))
    path = files.folder / FOLDS
    with refusing((OSError, ValueError), unreadable(path)):
        lines = path.read_text(encoding="ascii").splitlines()
        folds = [[int(word) for word in line.split()] for line in lines if line.strip()]
    count = len(_read_stl10(files, "probe").reader)
    if not folds or any(not 0 <= row < count for fold in folds for row in fold):
        raise DataError(f"{path}: is not the published file: its lines name training images")
    return tuple(torch.tensor(fold) for fold in folds)


def published_folder(path: Path) -> str | None:
    """Return the name of the published set that a folder holds or is, or None."""
    for name, folder in FOLDERS.items():
        if (path / folder).is_dir() or path.resolve().name == folder:
            return name
    return None


def _root(name: str, path: Path) -> Path:
    return path.resolve().parent if path.resolve().name == FOLDERS[name] else path


def _read_cifar(files: Files, part: Split) -> Images:
    data = files.reader()(str(files.root), train=part != "test")
    # torchvision turns the published order of axes to the one of pictures
    pixels = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    split = "test" if part == "test" else "training"
    return Images(
        reader=ArrayReader(f"{files.name} {split}", pixels),
        keys=tuple(data.classes),
        labels=torch.tensor(data.targets),
        side=32,
    )


def _read_stl10(files: Files, part: Split) -> Images:
    """Read STL-10: training images are the unlabelled ones, where that file is there."""
    unlabelled = part == "train" and (files.folder / _UNLABELED).is_file()
    split = "unlabeled" if unlabelled else "train" if part == "probe" else part
    data = files.reader()(str(files.root), split=split)
    labels = None if unlabelled else torch.from_numpy(data.labels.astype(np.int64))
    return Images(
        reader=ArrayReader(f"stl10 {split}", data.data), keys=_STL10, labels=labels, side=96
    )


def _download(files: Files) -> None:
    """Fetch and unpack; of several ranks on a machine one does and the others wait for it."""
    from torchvision.datasets.utils import download_and_extract_archive

    reader = files.reader()
    failed = f"--data.download: {files.name} could not be fetched into {files.root}"
    with refusing(
        (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError),
        lambda error: DataError(f"{failed}: {first_line(error)}"),
    ):
        files.root.mkdir(parents=True, exist_ok=True)
        with claimed(files.root / f".{files.name}.lock", wait=True):
            if files.problem():
                download_and_extract_archive(
                    reader.url, str(files.root), filename=reader.filename, md5=reader.tgz_md5
                )
