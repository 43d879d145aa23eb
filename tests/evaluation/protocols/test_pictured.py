"""Pictures of a vision transformer as protocols; the maps have tests of their own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from ssgear.config.schema import ModelConfig
from ssgear.errors import ConfigError
from ssgear.evaluation.pictures.attention import attention_maps
from ssgear.evaluation.pictures.patch_pca import patch_pca
from ssgear.evaluation.protocols import find
from ssgear.evaluation.subject import Subject
from ssgear.models.encoders import Normalized, build_encoder
from tests.evaluation.protocols.subjects import make_data, make_subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    encoder = build_encoder(ModelConfig(name="test_vit"), 48)
    data = make_data()
    large = data.test_images[:].repeat_interleave(3, 2).repeat_interleave(3, 3)
    data = dataclasses.replace(data, test_images=large)
    return Subject(Normalized(encoder, (0.5,) * 3, (0.5,) * 3).eval(), data)


def test_pictures_stand_beside_their_images(subject: Subject) -> None:
    assert isinstance(subject.encoder, Normalized)
    rows = torch.linspace(0, 36, 8).round().long()
    images = subject.data.test_images[rows]
    maps = attention_maps(subject.encoder, images)
    (attention,) = find("attention").measure(subject).exhibits
    shown = attention.tensors["images"]
    heads = maps.shape[1]
    assert shown.shape == (8, 1 + heads, 48, 48, 3) and shown.dtype == torch.uint8
    assert torch.equal(shown[:, 0].permute(0, 3, 1, 2), images)
    assert attention.fields["columns"] == ["image", *(f"head {head}" for head in range(heads))]
    for head in range(heads):  # the place that is looked at most is the brightest
        large = F.interpolate(maps[:, head : head + 1].float(), size=(48, 48), mode="nearest")
        place = large.flatten(1).argmax(1)
        assert bool((shown[:, 1 + head, ..., 0].flatten(1).gather(1, place[:, None]) == 255).all())
    (parts,) = find("patch-pca").measure(subject).exhibits
    colours = patch_pca(subject.encoder, images).permute(0, 3, 1, 2)
    large = F.interpolate(colours, size=(48, 48), mode="nearest").permute(0, 2, 3, 1)
    assert torch.equal(parts.tensors["images"][:, 1], large)


@pytest.mark.parametrize("name", ["attention", "patch-pca"])
def test_other_networks_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="attention and patch-pca are for vision transformers"):
        find(name).check(make_subject())
