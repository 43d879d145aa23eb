"""Views from an instance-conditioned GAN: images like a real one, by its features and noise.

    python -m ssgear.generate --generator icgan --weights FILE --instance-encoder FILE \
        --data.path DIR --views 10 --output STORE

Casanova et al. 2021 (arXiv 2109.05070) over BigGAN (views/biggan/network.py), with the state dict
that the paper's authors publish (safetensors, or a pickle of tensors alone), and the encoder whose
features it was trained on: an encoder of ssgear, or the state dict of a ResNet-50 in torchvision's
names (SwAV's among them), which sees squares of 224 pixels. Features have length 1. Neither was
ever checked against real weights: what is tested are files of the same names made by the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import ConfigError, require
from ssgear.views.base import Views
from ssgear.views.diffusion.rows import Drawing, Row, images_of, keep, one_stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class ICGAN(Drawing):
    """A BigGAN of 64, 128 or 256 pixels that is conditioned on a real image."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Drawing.Config):
        """Which networks, and how the noise is drawn."""

        weights: Path | None = None
        """Weights of the generator, in the published names: safetensors or a pickle of tensors."""
        instance_encoder: Path | None = None
        """Encoder that the generator is conditioned by: of ssgear, or weights of a ResNet-50."""
        truncation: float | None = None
        """Largest absolute value of the noise: cleaner, less varied images; by default not cut."""

        def __post_init__(self) -> None:
            """Refuse a bound that leaves no noise."""
            bound = self.truncation
            require(bound is None or bound > 0, "--truncation", bound, "use more than 0")

    def __init__(self, config: Config, device: torch.device) -> None:
        """Read both networks.

        Raises:
            ConfigError: a file is not named.
            CheckpointError: a file cannot be used, or the two do not belong together.
        """
        from ssgear.views.biggan.instance_encoders import load_any_encoder
        from ssgear.views.biggan.network import load_biggan

        if config.weights is None:
            raise ConfigError("--weights: name the file of the generator's weights")
        if config.instance_encoder is None:
            raise ConfigError(
                "--instance-encoder: name the encoder that the generator was trained with (weights "
                "of a ResNet-50, or a run of ssgear)"
            )
        generator, digest = load_biggan(config.weights)
        encoder = load_any_encoder(config.instance_encoder, generator.config.features)
        self.generator, self.encoder = generator.to(device), encoder.to(device)
        self.device, self.truncation = device, config.truncation
        self.size, self.image_size = generator.resolution, encoder.size
        self.settings = {
            "model": digest,
            "instance_encoder": encoder.digest,
            "parameters": {"truncation": config.truncation},
        }
        self.stages = (one_stage("icgan", self._draw, device),)

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Draw an image like each of the images."""
        assert images is not None
        rows = [Row(image=image, seed=seed) for image, seed in zip(images, seeds, strict=True)]
        return self.drawn(rows, self.stages)

    def _draw(self, rows: Sequence[Row]) -> None:

        from ssgear.models.gan.instances import instance_features
        from ssgear.views.biggan.network import truncated_noise

        seeds = [row.seed for row in rows]
        noise_NZ = truncated_noise(seeds, self.generator.noise_dim, self.truncation)
        features_NF = instance_features(self.encoder, images_of(rows), self.device)
        keep(rows, self.generator(noise_NZ.to(self.device), features_NF))
