"""What a run leaves for its instance-conditioned generator is what it was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssgear.errors import DataError
from ssgear.methods.gan_ssl.method import GanSSL
from ssgear.models.gan.generators import read_generator
from ssgear.models.gan.instances import instance_features, load_instance_encoder, synthetic_for
from tests.methods.gan import SIDE, build

CPU = torch.device("cpu")


def trained(condition: str) -> GanSSL:
    """A method whose encoder and generator have moved away from their averages."""
    method = build(norm="batch", condition=condition)
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
        method.encoder.train()(torch.randn(50, 3, SIDE, SIDE))  # batch statistics
    return method.eval()


def some(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 3


def test_the_saved_encoder_is_the_average(tmp_path: Path) -> None:
    method = trained("instance")
    live = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    assert method.generator is not None
    method.generator.save(tmp_path, None)
    assert all(torch.equal(value, live[n]) for n, value in method.encoder.state_dict().items())
    images, _ = some(7)
    with torch.no_grad():
        wanted = method.instance_features(images / 127.5 - 1)
        other = torch.nn.functional.normalize(method.encoder(images / 127.5 - 1))
    found = instance_features(load_instance_encoder(tmp_path), images, CPU)
    assert torch.allclose(found, wanted, atol=1e-5), (found - wanted).abs().max()
    assert not torch.allclose(found, other, atol=1e-2)  # the live encoder is another one
    assert torch.allclose(found.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("condition", ["none", "label", "instance"])
def test_images_after_the_run_are_those_in_it(condition: str, tmp_path: Path) -> None:
    method = trained(condition)
    assert method.generator is not None
    method.generator.save(tmp_path, None)
    images, labels = some(35)  # more than a block
    wanted = method.generator.samples(images, labels, seed=4)
    found = read_generator(tmp_path)
    made = synthetic_for(
        found, tmp_path / "generator.safetensors", images, labels, seed=4, device=CPU
    )
    assert made.shape == (35, 3, SIDE, SIDE)
    assert int((made.int() - wanted.int()).abs().max()) <= 1
    if condition == "label":
        for wrong, said in ((None, "have no labels"), (labels + 1, "have more")):
            with pytest.raises(DataError, match=f"3 classes, and these images {said}"):
                synthetic_for(found, tmp_path, images, wrong, seed=4, device=CPU)
