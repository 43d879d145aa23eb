from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgear.evaluation.features import extract, pixels


class Counting(nn.Module):
    """Says in which mode and batches it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.calls: list[tuple[int, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append((len(images), self.training))
        return self.norm(images.float()).flatten(1)


def test_features_come_in_order_in_eval_mode_and_modes_are_restored() -> None:
    images = torch.randint(0, 255, (23, 3, 4, 4), dtype=torch.uint8)
    encoder = Counting().train()
    encoder.norm.eval()
    features = extract(encoder, images, batch_size=10)
    assert encoder.calls == [(10, False), (10, False), (3, False)]
    assert encoder.training and not encoder.norm.training
    assert features.shape == (23, 48) and features.dtype == torch.float32
    torch.testing.assert_close(features, images.float().flatten(1), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(extract(encoder, iter([images[:9], images[9:]])), features)


def test_features_can_be_used_with_gradients_afterwards() -> None:
    features = extract(Counting(), torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
    layer = nn.Linear(12, 2)
    layer(features).sum().backward()
    assert layer.weight.grad is not None


def test_pixels_are_the_image_or_its_area_means() -> None:
    small = torch.randint(0, 255, (5, 3, 7, 7), dtype=torch.uint8)
    torch.testing.assert_close(pixels(small), small.flatten(1) / 255)
    large = torch.randint(0, 255, (5, 3, 64, 64), dtype=torch.uint8)
    means = large.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) / 255
    torch.testing.assert_close(pixels(large), means.flatten(1))
