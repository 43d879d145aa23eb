"""Images from a trained GAN: of noise alone, of a class, or of a real image.

    python -m ssgear.generate --generator gan --run RUN --count 10000 --output STORE
    python -m ssgear.generate --generator gan --run RUN --views 4 --output STORE    # of real images

RUN holds generator.safetensors and generator.json (models/gan/generators.py). Image i has the label
i mod classes, so that classes are balanced in every part of a store. A generator that is
conditioned on instances makes views of the images of its run (or of `--data.path`): synthetic
positives, conditioned on their features by instance_encoder.safetensors (models/gan/instances.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import ConfigError
from ssgear.views.base import Views
from ssgear.views.diffusion.rows import Drawing, Row, images_of, keep, one_stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssgear.models.encoders import PretrainedEncoder


class GAN(Drawing):
    """A DCGAN or StyleGAN2 of a run."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Drawing.Config):
        """Which generator, and how its noise is used."""

        run: Path | None = None
        """Run that trained the generator, or its generator.safetensors."""
        truncation: float = 1.0
        """Share of the styles' distance to their average that is kept (StyleGAN2 only)."""

        def __post_init__(self) -> None:
            """Refuse a share that is none."""
            if not 0 <= self.truncation < math.inf:
                raise ConfigError(f"--truncation: {self.truncation} is not possible; use 0 or more")

    def __init__(self, config: Config, device: torch.device) -> None:
        """Read the generator.

        Raises:
            ConfigError: no run is named, or its generator needs what is not there.
            CheckpointError: the files cannot be used.
        """
        from ssgear.models.gan.generators import read_generator

        if config.run is None:
            raise ConfigError("--run: name the run whose generator draws the images")
        found = read_generator(config.run)
        condition = found.generator.config.condition
        if config.truncation != 1 and found.kind != "stylegan2":
            raise ConfigError(
                f"--truncation: {config.truncation:g}: a {found.kind} has no styles; leave it away"
            )
        self.generator = found.generator.to(device)
        self.device, self.truncation = device, config.truncation
        self.num_labels = condition.size if condition.kind == "label" else 0
        self.size = found.generator.resolution
        self.settings = {
            "model": found.digest,
            "parameters": {"truncation": float(config.truncation)},
            "num_labels": self.num_labels,
            "classes": None if found.classes is None else list(found.classes),
        }
        self.stages = (one_stage("gan", self._draw, device),)
        self.encoder: PretrainedEncoder | None = None
        if condition.kind == "vector":
            self._condition_on_images(config.run, condition.size)

    def _condition_on_images(self, run: Path, size: int) -> None:
        """Read the encoder whose features the generator takes."""
        from ssgear.models.gan.instances import fitting, load_instance_encoder

        encoder = fitting(load_instance_encoder(run), size, run).to(self.device)
        self.encoder, self.image_size = encoder, encoder.size
        self.settings = {**self.settings, "instance_encoder": encoder.digest}

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Draw an image for each id, which is its number; or for each image."""
        import torch

        given = torch.zeros(len(ids), 3, 1, 1, dtype=torch.uint8) if images is None else images
        rows = [Row(image=image, seed=seed) for image, seed in zip(given, seeds, strict=True)]
        if self.num_labels:
            for row, number in zip(rows, ids, strict=True):
                row.metadata["label"] = int(number) % self.num_labels
        return self.drawn(rows, self.stages)

    def _draw(self, rows: Sequence[Row]) -> None:
        import torch

        from ssgear.kernels import philox
        from ssgear.models.gan.instances import instance_features
        from ssgear.models.gan.sampling import render

        seeds = torch.tensor([row.seed for row in rows])
        noise_NZ = philox.normal(philox.derive_key("gan"), seeds, self.generator.noise_dim)
        condition = None
        if self.num_labels:
            labels = [row.metadata["label"] for row in rows]
            condition = torch.tensor(labels, device=self.device)
        if self.encoder is not None:
            condition = instance_features(self.encoder, images_of(rows), self.device)
        keep(rows, render(self.generator, noise_NZ.to(self.device), condition, self.truncation))
