"""What cannot be evaluated: one line, status 2, early, and nothing is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssgear.evaluate import encoders, writing
from ssgear.evaluation.features import store, stream
from ssgear.models.encoders import Normalized
from tests.evaluate.photos import write_encoder, write_photos

Ssgear = Callable[..., Any]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and folders of images, good and bad."""
    root = tmp_path_factory.mktemp("bad")
    write_encoder(root / "encoder")
    write_encoder(root / "nan", fill=float("nan"))
    write_photos(root / "photos")
    write_photos(root / "one", classes=1)
    write_photos(root / "two", classes=2)
    write_photos(root / "few", classes=2, images=4)
    (root / "flat").mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (9 * number, 0, 90)).save(root / "flat" / f"{number}.png")
    return root


LABELS = "--protocol: this protocol needs labels and these images have none; use class folders"
CASES = {
    "no labels": ("--protocol linear --data.path flat", LABELS),
    "no labels, later": ("--protocol health map --data.path flat", LABELS),
    "one class": ("--data.path one", LABELS),
    "an unknown class": (
        "--data.path two --data.test-path photos",
        "photos: class 'c2' of the test images is none of the 2 classes",
    ),
    "no pairs": (
        "--protocol health map --data.path few --data.test-share 0.2",
        "--protocol: map needs two test images of a class",
    ),
    "too small": (
        "--data.path photos --data.size 8",
        "--data.size: 4c3-6c3-8f cannot take images of 8 x 8 pixels; leave it away for its own 16",
    ),
    "no share": ("--labels 0", "--labels: shares must be in (0, 1] (got 0)"),
    "two shares": ("--labels 2", "--labels: shares must be in (0, 1] (got 2)"),
    "a share twice": ("--labels 0.1 0.1", "--labels: give different shares (got 0.1 0.1)"),
    "no seed": ("--seeds 0", "--seeds: must be at least 1 (got 0)"),
    "no other images": ("--protocol transfer", "--transfer: --protocol transfer needs other"),
    "no such folder": (
        "--protocol health transfer --transfer no/where",
        "--transfer: no/where: no such folder or file",
    ),
    "no such set": (
        "--protocol health transfer --transfer cifra --data.path photos",
        "--transfer: cifra: --data.source: unknown source 'cifra'",
    ),
    "no such archive": (
        "--protocol health transfer --transfer cifar10:nowhere --data.path photos",
        "--transfer: cifar10: --data.source cifar10: nowhere/cifar-10-batches-py",
    ),
    "transfer without labels": (
        "--protocol health transfer --transfer flat --data.path photos",
        "--transfer: flat: this protocol needs labels",
    ),
    "no other encoder": ("--protocol health cka --data.path photos", "--against: --protocol cka"),
    "an unknown encoder": (
        "--protocol cka --against nowhere --data.path photos",
        "nowhere: there is no such run or file",
    ),
    "an unknown network": (
        "--protocol opd --against timm:resnot50 --data.path photos",
        "timm:resnot50: unknown model (did you mean timm:resnet50?)",
    ),
    "few to compare": (
        "--protocol health opd --against encoder --data.path photos --max-images 3",
        "--protocol: cka and opd need 4 test images (got 3)",
    ),
    "no Inception": (
        "--protocol kid",
        "--inception: kid needs Inception-v3's weights; name the file that torch-fidelity publishes"
        ", weights-inception-2015-12-05-6726825d.pth (fetch it from https://github.com/toshas/",
    ),
    "no transformer": (
        "--protocol health attention --data.path photos",
        "--protocol: attention and patch-pca are for vision transformers",
    ),
    "no block": (
        "--features layer9 --data.path photos",
        "--features: 4c3-6c3-8f has no block 'layer9'",
    ),
}


@pytest.mark.parametrize(("words", "expected"), [pytest.param(*CASES[k], id=k) for k in CASES])
def test_bad_input_is_refused_early(
    words: str, expected: str, folders: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    monkeypatch.setattr(stream, "write_features", None)  # nothing is encoded
    monkeypatch.setattr(store, "write_features", None)
    before = sorted(folders.rglob("*"))
    done = run_ssgear("evaluate", "encoder", *words.split())
    assert (done.status, done.out) == (2, "") and len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith(f"ssgear: {expected}")
    assert sorted(folders.rglob("*")) == before


@pytest.mark.parametrize("cache", ["true", "false"])
def test_images_with_nan_are_named(
    cache: str, folders: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    options = ("--data.path", "photos", "--protocol", "health", "--cache", cache)
    done = run_ssgear("evaluate", "nan", *options)
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert done.err.startswith("ssgear: features: NaN or infinite for ") and "c0/" in done.err
    assert not [*(folders / "nan").rglob("*.npy")] and not [*(folders / "nan").rglob(".*")]


def test_an_encoder_of_one_size_names_it(
    folders: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    vit = write_encoder(tmp_path / "vit", name="vit_tiny_patch16_224")
    options = ("--data.path", "photos", "--protocol", "health", "--data.size", "48")
    done = run_ssgear("evaluate", vit, *options)
    assert done.status == 2 and done.err.startswith(
        "ssgear: --data.size: vit_tiny_patch16_224 cannot take images of 48 x 48 pixels; leave it "
        "away for its own 16 x 16 ("
    )


def test_few_images_are_measured_with_notes(
    folders: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    options = ("--data.path", "photos", "--labels", "0.0001", "--protocol", "knn", "linear")
    done = run_ssgear("evaluate", "encoder", *options)
    assert done.status == 0
    assert "kNN of 3 training images: all of them vote, in place of 20\n" in done.err
    assert "a share of 0.0001 is less than an image of each class; 3 are used" in done.err
    done = run_ssgear(
        "evaluate",
        "encoder",
        "--data.path",
        "photos",
        "--data.test-path",
        "two",
        "--protocol",
        "map",
    )
    assert done.status == 0, done.err


def test_a_directory_that_cannot_be_written(
    folders: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, run = folders / "photos", write_encoder(tmp_path / "run")
    options = ("--data.path", photos, "--protocol", "health")
    (run / "features").write_text("in the way")
    done = run_ssgear("evaluate", run, *options)
    assert done.status == 2 and "cannot store features: " in done.complaint
    assert done.complaint.endswith("use --cache false to keep them in memory")
    assert run_ssgear("evaluate", run, *options, "--cache", "false").status == 0
    with monkeypatch.context() as patch:  # whoever runs the tests may write anywhere
        patch.setattr(writing.os, "access", lambda path, mode: Path(path) != run)
        done = run_ssgear("evaluate", run, *options)
    assert done.status == 2 and done.complaint == (
        f"ssgear: --output: {run} cannot be written; name a file in a directory of yours"
    )

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoders, "write_figures", full)
    done = run_ssgear("evaluate", run, *options, "--cache", "false")
    assert done.status == 2 and "effective_rank" in done.out  # what was measured is not lost
    assert "cannot be written: No space left on device; name another file" in done.complaint


def test_a_disk_that_fills_up_leaves_nothing_behind(
    folders: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_encoder(tmp_path / "run")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stream.os, "posix_fallocate", full)
    done = run_ssgear("evaluate", run, "--data.path", folders / "photos")
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "cannot store features: No space left on device; free some space" in done.complaint
    assert [*(run / "features").iterdir()] == []


def test_an_interrupt_leaves_no_part_that_counts(
    folders: Path, tmp_path: Path, run_ssgear: Ssgear, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_encoder(tmp_path / "run")
    arguments = ("evaluate", run, "--data.path", folders / "photos", "--protocol", "health")
    whole, calls = Normalized.normalize, []

    def interrupted(self: Normalized, images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) == 2:  # the first one asks for the width
            assert [*(run / "features").glob(".ssgear-partial-*")]
            raise KeyboardInterrupt
        return whole(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Normalized, "normalize", interrupted)
        done = run_ssgear(*arguments)
    assert done.status == 130 and done.complaint == "ssgear: interrupted"
    assert [*(run / "features").iterdir()] == []
    assert run_ssgear(*arguments).status == 0


def test_two_at_once_encode_once(tmp_path: Path) -> None:
    """The second waits for the first, and reads what it wrote."""

    class Images:
        shape, state = (9, 3, 4, 4), "a"

        def __len__(self) -> int:
            return 9

        def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
            return torch.arange(9 * 48).remainder(251).view(9, 3, 4, 4).byte()[rows]

    class Slow(torch.nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            Slow.calls += 1
            begun.set()
            assert go_on.wait(20)
            return images.flatten(1).float()

    begun, go_on = threading.Event(), threading.Event()
    features: list[Any] = []

    def encode() -> None:
        there = store.FeatureStore(folder=tmp_path)
        features.append(there.features(Slow(), Images(), device=torch.device("cpu"), label=""))

    threads = [threading.Thread(target=encode) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert Slow.calls == 2 and len(features) == 2  # the width, and one batch
    assert torch.equal(features[0][:], features[1][:])
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"] and os.listdir(tmp_path)
