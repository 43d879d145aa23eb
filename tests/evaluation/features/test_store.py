from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.features.store import FeatureStore, weights_digest

CPU = torch.device("cpu")


class Images:
    """Images whose state is known."""

    def __init__(self, state: str = "a") -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (9, 3, 4, 4), generator=generator, dtype=torch.uint8)
        self.shape = (9, 3, 4, 4)
        self.state = state
        self.reads = 0

    def __len__(self) -> int:
        return 9

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        self.reads += 1
        return self.images[rows]


class Flat(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).float() * self.get_buffer("scale")


def test_features_are_computed_once(tmp_path: Path) -> None:
    store, images = FeatureStore(folder=tmp_path / "features"), Images()
    features = store.features(Flat(), images, device=CPU)
    assert isinstance(features, FeatureFile)
    reads = images.reads
    again = FeatureStore(folder=tmp_path / "features").features(Flat(), images, device=CPU)
    assert images.reads == reads and torch.equal(again[:], images.images.flatten(1).float())


def test_other_weights_or_images_are_other_features(tmp_path: Path) -> None:
    store = FeatureStore(folder=tmp_path)
    keys = [
        store.key(Flat(), Images("a"), CPU),
        store.key(Flat(2.0), Images("a"), CPU),
        store.key(Flat(), Images("b"), CPU),
        store.key(nn.Flatten(1), Images("a"), CPU),
        store.key(nn.Flatten(2), Images("a"), CPU),
    ]
    assert len(set(keys)) == 5 and all(keys)
    assert keys[0] == store.key(Flat(), Images("a"), CPU)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    store, images = FeatureStore(folder=tmp_path), Images()
    store.features(Flat(), images, device=CPU)
    (file,) = tmp_path.iterdir()
    for content in (b"", file.read_bytes()[:-7]):
        file.write_bytes(content)
        features = store.features(Flat(), images, device=CPU)
        assert torch.equal(features[:], images.images.flatten(1).float())


def test_what_cannot_be_relied_on_is_kept_in_memory(tmp_path: Path) -> None:
    for store, images in (
        (FeatureStore(), Images()),
        (FeatureStore(folder=tmp_path), Images("")),
        (FeatureStore(folder=tmp_path), Images().images),
    ):
        features = store.features(Flat(), images, device=CPU)
        assert isinstance(features, Tensor) and features.shape == (9, 48)
    assert not [*tmp_path.iterdir()]


def test_digests_see_parameters_buffers_and_structure() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    before = weights_digest(linear)
    assert weights_digest(linear) == before
    with torch.no_grad():
        linear.bias += 1e-6
    assert weights_digest(linear) != before
    assert weights_digest(nn.ReLU()) != weights_digest(nn.GELU())
