"""Every format of images through every engine that can take it: the same images and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.loaders.choose import build_loader
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources.open import open_source
from ssgear.data.sources.source import Source
from tests.data.pictures import encode, noise, pack, write_classes, write_shard
from tests.data.sources.cifar10_files import save
from tests.data.sources.stl10_files import images
from tests.data.sources.tiny_imagenet import VAL, write_tiny

Make = Callable[[Path, pytest.FixtureRequest], Path]


def cifar100(root: Path, request: pytest.FixtureRequest) -> Path:
    patch = request.getfixturevalue("monkeypatch")
    folder, pixels = root / "cifar-100-python", images(9, 32, 3).reshape(9, -1)
    content = {"data": pixels, "fine_labels": [4, 3, 2, 1, 0, 0, 1, 2, 3]}
    for split in ("train", "test"):
        patch.setattr(datasets.CIFAR100, f"{split}_list", [save(folder / split, content)])
    name, md5 = save(folder / "meta", {"fine_label_names": list("abcde")})
    meta = {"filename": name, "key": "fine_label_names", "md5": md5}
    patch.setattr(datasets.CIFAR100, "meta", meta)
    return root


def published(name: str) -> Make:
    return lambda root, request: request.getfixturevalue(name)[0]


def folder(counts: dict[str, int]) -> Make:
    return lambda root, request: write_classes(root / "p", counts)


def packed(counts: dict[str, int]) -> Make:
    return lambda root, request: pack(write_classes(root / "p", counts), root / "p.tar", "p")


def modes(root: Path, request: pytest.FixtureRequest) -> Path:
    """The same size in every mode and file format that people have."""
    grey, rgb, rgba = (Image.fromarray(noise(9, 9, n, seed=n).squeeze()) for n in (1, 3, 4))
    deep = Image.fromarray(np.arange(81, dtype=np.uint16).reshape(9, 9) * 800)
    files = {
        "a/grey.png": encode(grey), "a/rgb.jpg": encode(rgb, "JPEG"), "a/rgba.webp":
        encode(rgba, "WEBP", lossless=True), "a/palette.gif": encode(rgb.quantize(16), "GIF"),
        "b/cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"), "b/deep.png": encode(deep),
        "b/one.tiff": encode(grey.convert("1"), "TIFF"), "b/la.png": encode(grey.convert("LA")),
        "b/rgb.bmp": encode(rgb, "BMP"), "b/rgb.ppm": encode(rgb, "PPM"),
    }  # fmt: skip
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    return root


def shards(root: Path, request: pytest.FixtureRequest) -> Path:
    for shard in range(3):
        numbers = range(3 * shard, 3 * shard + 3)
        data = {f"{n}.png": encode(Image.fromarray(noise(9, 9, seed=n))) for n in numbers}
        labels = {f"{n}.cls": str(n % 2).encode() for n in numbers}
        write_shard(root / f"{shard}.tar", dict(sorted({**data, **labels}.items())))
    return root / "{0..2}.tar"


FORMATS: dict[str, tuple[Make, bool]] = {
    "cifar10": (published("cifar10"), True),
    "cifar100": (cifar100, True),
    "stl10": (published("stl10"), False),
    "tiny-imagenet": (lambda root, request: write_tiny(root, VAL), True),
    "class folders": (folder({"a": 5, "b": 4}), True),
    "nested folders": (folder({"a/x": 3, "a/y/z": 2, "b": 4}), True),
    "flat folder": (folder({".": 9}), False),
    "splits": (folder({"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2}), True),
    "tar of class folders": (packed({"a": 5, "b": 4}), True),
    "tar of a flat folder": (packed({".": 9}), False),
    "modes and file formats": (modes, True),
    "webdataset": (shards, True),
}
"""How each is written, and whether its images have labels."""


def epoch(source: Source, engine: str, size: int | None = None) -> list[Batch]:
    side = size or source.native_size
    assert side is not None
    plan = ViewPlan(
        specs=(AugmentSpec.named("none"), AugmentSpec.named("simclr-cifar")),
        size=side,
        seed=5,
        device=torch.device("cpu"),
        needs_images=True,
    )

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(num_images=num_images, batch_size=3, seed=5)

    config = DataConfig(loader=engine, workers=0)  # type: ignore[arg-type]
    loader, good, *_ = build_loader(config, source, sampler_for, plan)
    assert loader.name == engine and len(good) == len(source) and good.bad == ()
    return list(loader.epoch(0, 0, lambda number: [""]))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_in_both_engines(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    make, labelled = FORMATS[name]
    source = open_source(DataConfig(path=make(tmp_path, request), test_share=0), "train")
    assert (source.labels is not None) is labelled
    found = [epoch(source, engine) for engine in ("resident", "torch")]
    assert len(found[0]) == len(found[1]) == len(source) // 3
    for resident, files in zip(*found, strict=True):
        assert torch.equal(resident.index, files.index)
        stored = torch.stack([source.decode(index) for index in resident.index.tolist()])
        for batch in (resident, files):
            assert batch.images is not None and (batch.labels is not None) is labelled
            torch.testing.assert_close(batch.images, stored / 127.5 - 1)
            if source.labels is not None and batch.labels is not None:
                assert torch.equal(batch.labels, source.labels[batch.index])
        for one, two in zip(resident.views, files.views, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


def test_many_sizes_from_a_folder_a_tar_and_shards(tmp_path: Path) -> None:
    """Only the torch engine takes them, and gets the same whatever holds the files."""
    shapes = [(20, 30), (31, 17), (12, 12), (9, 40)]
    files = {f"{n}.png": encode(Image.fromarray(noise(*shapes[n % 4], seed=n))) for n in range(9)}
    for name, data in files.items():
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_bytes(data)
    for shard in range(3):
        some = dict(list(files.items())[3 * shard : 3 * shard + 3])
        write_shard(tmp_path / "s" / f"{shard}.tar", some)
    paths = [tmp_path / "p", pack(tmp_path / "p", tmp_path / "p.tar", "p"), tmp_path / "s"]
    sources = [open_source(DataConfig(path=path, test_share=0), "train") for path in paths]
    assert [source.name for source in sources] == ["folder", "tar", "webdataset"]
    assert [source.native_size for source in sources] == [None] * 3
    first, *others = (epoch(source, "torch", size=16) for source in sources)
    assert len(first) == 3
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.equal(one.index, two.index)
            assert all(map(torch.equal, one.views, two.views))
