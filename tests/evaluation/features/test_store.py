from __future__ import annotations

from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from ssgear.config.schema import ModelConfig
from ssgear.evaluation.features.rows import FeatureFile
from ssgear.evaluation.features.store import FeatureStore, weights_digest
from ssgear.models.encoders import Normalized, build_encoder
from ssgear.models.encoders.blocks import PooledBlocks

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


def test_digests_see_what_is_no_tensor() -> None:
    def attention(**settings: object) -> nn.Module:
        torch.manual_seed(0)
        name = "vit_tiny_patch16_224"
        return timm.create_model(
            name, img_size=32, patch_size=8, depth=1, num_classes=0, fc_norm=False, **settings
        )

    network = attention()
    digests = [
        weights_digest(other)
        for other in (network, attention(num_heads=6), attention(global_pool="avg"))
    ]
    assert len(set(digests)) == 3
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert weights_digest(network) == weights_digest(attention()) == digests[0]
    blocks = PooledBlocks(Normalized(build_encoder(ModelConfig(), 32), (0.5,) * 3, (0.5,) * 3))
    before = weights_digest(blocks)
    assert blocks.widths and weights_digest(blocks) == before
