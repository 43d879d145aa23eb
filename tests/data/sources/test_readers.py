"""Readers in worker processes and threads, of files with names of any kind."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ssgear.config.schema import DataConfig
from ssgear.data.sources.names import Names
from ssgear.data.sources.open import open_source
from ssgear.data.sources.readers import FolderReader
from ssgear.data.sources.source import Source
from tests.data.pictures import encode, noise, pack, write, write_classes


def test_files_with_names_in_no_encoding(tmp_path: Path) -> None:
    write(tmp_path, ["x.png"])
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    for path in (tmp_path, pack(tmp_path, tmp_path.parent / "odd.tar", "odd")):
        source = open_source(DataConfig(path=path, test_share=0), "train")
        assert source.decode(0).shape == (3, 8, 8)
        source.where(0).encode()


def test_a_header_after_long_notes(tmp_path: Path) -> None:
    """The first 64 KiB of a JPEG with large notes do not reach its size."""
    image = Image.fromarray(noise(24, 24))
    data = encode(image, "JPEG", icc_profile=bytes(200_000))
    (tmp_path / "1.jpg").write_bytes(data)
    assert data.find(b"\xff\xc0") > 1 << 16
    assert FolderReader(tmp_path, Names(["1.jpg"])).stored_size(0) == (24, 24)


class Sums(Dataset[int]):
    """Sums of a source's pixels, computed where a loader asks for them."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> int:
        return int(self.source.decode(index).sum())


@pytest.mark.parametrize(("kind", "start"), [("folder", "fork"), ("tar", "fork"), ("tar", "spawn")])
def test_worker_processes(tmp_path: Path, kind: str, start: str) -> None:
    """A handle that the parent opened is shared by forked workers, and opened anew in others."""
    path = write_classes(tmp_path / "p", {"a": 20, "b": 20})
    path = pack(path, tmp_path / "p.tar", "p") if kind == "tar" else path
    source = open_source(DataConfig(path=path, test_share=0), "train")
    expected = [int(source.decode(index).sum()) for index in range(40)]
    workers = 2 if start == "fork" else 1
    loader = DataLoader(
        Sums(source), batch_size=None, num_workers=workers, multiprocessing_context=start
    )
    assert [int(total) for total in loader] == expected


def test_threads_share_a_tar(tmp_path: Path) -> None:
    path = pack(write_classes(tmp_path / "p", {"a": 40, "b": 40}), tmp_path / "p.tar", "p")
    source = open_source(DataConfig(path=path, test_share=0), "train")
    fresh = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(fresh.decode, list(range(80)) * 3))
    assert all(torch.equal(image, source.decode(i % 80)) for i, image in enumerate(images))
    assert np.unique(torch.stack(images[:80]).flatten(1).numpy(), axis=0).shape[0] == 80
