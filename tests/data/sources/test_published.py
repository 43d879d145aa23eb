"""CIFAR-10, CIFAR-100 and STL-10: small files in their published formats, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torchvision import datasets

from ssgear.config.schema import DataConfig
from ssgear.data.sources import published
from ssgear.data.sources.decode import open_rgb, to_tensor
from ssgear.data.sources.loading import decode_all, scan
from ssgear.data.sources.open import open_probe_source, open_source
from ssgear.errors import DataError
from tests.data.pictures import Pixels, both
from tests.data.sources.cifar10_files import CIFAR10_NAMES, save
from tests.data.sources.stl10_files import images


@pytest.mark.parametrize("source", ["auto", "cifar10"])
@pytest.mark.parametrize("inside", [".", "cifar-10-batches-py"])
def test_cifar10(cifar10: tuple[Path, Pixels, Pixels], source: str, inside: str) -> None:
    root, train_pixels, test_pixels = cifar10
    train, test = both(DataConfig(source=source, path=root / inside))
    assert train.name == "cifar10" and train.classes == tuple(CIFAR10_NAMES)
    assert train.labels is not None and train.labels.dtype == torch.int64
    assert train.labels.tolist()[:8] == [0, 1, 2, 0, 0, 1, 2, 1]
    assert test.labels is not None and test.labels.tolist() == [2, 1, 0]
    assert train.native_size == 32 and "image 7" in train.where(7)
    assert torch.equal(train.decode(7), torch.from_numpy(train_pixels[7]))
    assert torch.equal(to_tensor(open_rgb(test.encoded(2))), torch.from_numpy(test_pixels[2]))
    all_images, good = decode_all(train, DataConfig())
    assert torch.equal(all_images, torch.from_numpy(train_pixels)) and len(good) == 20
    some, _ = decode_all(train.subset(torch.tensor([5, 2])), DataConfig())
    assert torch.equal(some, torch.from_numpy(train_pixels[[5, 2]]))
    _, sizes = scan(test, DataConfig())
    assert sizes.tolist() == [[32, 32]] * 3


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    pixels = images(5, 32, 3)
    fine = [4, 3, 2, 1, 0]
    entries = {
        split: save(folder / split, {"data": pixels.reshape(5, -1), "fine_labels": fine})
        for split in ("train", "test")
    }
    name, md5 = save(folder / "meta", {"fine_label_names": list("abcde")})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [entries["train"]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [entries["test"]])
    meta = {"filename": name, "key": "fine_label_names", "md5": md5}
    monkeypatch.setattr(datasets.CIFAR100, "meta", meta)
    train, test = both(DataConfig(path=tmp_path))
    assert train.name == test.name == "cifar100" and train.classes == tuple("abcde")
    assert train.labels is not None and train.labels.tolist() == fine
    assert torch.equal(train.decode(4), torch.from_numpy(pixels[4]))


def test_stl10(stl10: tuple[Path, dict[str, Pixels]]) -> None:
    root, pixels = stl10
    train, test = both(DataConfig(path=root))
    probe = open_probe_source(DataConfig(path=root))
    assert train.name == "stl10" and train.native_size == 96
    assert train.labels is None and len(train) == 4
    assert test.labels is not None and test.labels.tolist() == [1, 8]
    assert probe.labels is not None and probe.labels.tolist() == [0, 9, 3]
    assert probe.classes is not None and probe.classes[9] == "truck"
    for source, name in ((train, "unlabeled"), (test, "test"), (probe, "train")):
        assert torch.equal(source.decode(1), torch.from_numpy(pixels[name][1]))
        every, _ = decode_all(source, DataConfig())
        assert torch.equal(every, torch.from_numpy(pixels[name]))


def test_folds_of_stl10(stl10: tuple[Path, dict[str, Pixels]]) -> None:
    root, _ = stl10
    config = DataConfig(source="stl10", path=root)
    with pytest.raises(DataError, match=r"fold_indices\.txt: cannot be read: .*No such file"):
        published.read_folds("stl10", config)
    file = root / "stl10_binary" / "fold_indices.txt"
    file.write_text("2 0 \n1 2 \n")
    assert [fold.tolist() for fold in published.read_folds("stl10", config)] == [[2, 0], [1, 2]]
    assert published.read_folds("mini", config) == ()
    for wrong, complaint in (("0 3\n", "is not the published file"), ("a\n", "cannot be read")):
        file.write_text(wrong)
        with pytest.raises(DataError, match=complaint):
            published.read_folds("stl10", config)


def test_stl10_without_its_unlabelled_images(stl10: tuple[Path, dict[str, Pixels]]) -> None:
    root, _ = stl10
    (root / "stl10_binary" / "unlabeled_X.bin").unlink()
    train, test = both(DataConfig(source="stl10", path=root))
    assert train.labels is not None and train.labels.tolist() == [0, 9, 3]
    assert len(test) == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_absent_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not there") as caught:
        open_source(DataConfig(source=name, path=tmp_path), "train")
    told = str(caught.value)
    assert "--data.download" in told and published.FOLDERS[name] in told and str(tmp_path) in told


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_pickle_with_another_sum_is_never_loaded(
    cifar10: tuple[Path, Pixels, Pixels], file: str, tmp_path: Path
) -> None:
    root, _, _ = cifar10

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (str(tmp_path / "pwned"), "w")

    (root / "cifar-10-batches-py" / file).write_bytes(pickle.dumps(Evil()))
    splits: tuple[Literal["train"], Literal["test"]] = ("train", "test")
    for split in splits:
        with pytest.raises(DataError, match=rf"{file} is not the published file"):
            open_source(DataConfig(path=root), split)
    assert not (tmp_path / "pwned").exists()


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: the archive is asked for by its published sum, a failure is one line."""
    asked = []

    def fetch(url: str, root: str, *, filename: str, md5: str) -> None:
        asked.append((url, root, filename, md5))
        raise OSError("Network is unreachable\nsecond line")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    config = DataConfig(source="cifar10", path=tmp_path / "new", download=True)
    with pytest.raises(DataError, match=r"--data\.download.*Network is unreachable$"):
        open_source(config, "train")
    base = datasets.CIFAR10
    assert asked == [(base.url, str(tmp_path / "new"), base.filename, base.tgz_md5)]
    assert list((tmp_path / "new").iterdir()) == []


def test_nothing_is_fetched_that_is_there(
    cifar10: tuple[Path, Pixels, Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", None)
    config = DataConfig(source="cifar10", path=cifar10[0], download=True)
    assert len(open_source(config, "train")) == 20
