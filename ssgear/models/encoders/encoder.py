"""Encoders: images to features, how they are built, saved as two plain files, and read again.

`build_encoder` makes one from the run's settings; `save_encoder` writes `encoder.safetensors` and
`encoder.json`, and `load_encoder` (also `ssgear.load_encoder`) reads them into a module that takes
ordinary images. Files hold numbers and names only: reading them runs no code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssgear.config.schema import ModelConfig
from ssgear.errors import ArgumentError, CheckpointError, ConfigError, refusing
from ssgear.models import saved
from ssgear.models.encoders.networks import build_network, num_features_of
from ssgear.models.heads import seeded
from ssgear.storage.atomic import Json

NAME = "encoder"
WEIGHTS = f"{NAME}.safetensors"


class Encoder(nn.Module):
    """A network without its classifier: normalised images [N, 3, H, W] to features [N, F]."""

    def __init__(self, network: nn.Module, config: ModelConfig, size: int) -> None:
        """Wrap a network; `size` is the side of the images that it is built for."""
        super().__init__()
        self.network = network
        self.config = config
        self.name = config.name
        self.size = size
        self.num_features = num_features_of(network, config.name, size)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the features of normalised images."""
        return cast(Tensor, self.network(images_NCHW))


class Normalized(nn.Module):
    """An encoder (the same weights) that takes images as they are: uint8, or float in [0, 1]."""

    mean_3HW: Tensor
    std_3HW: Tensor

    def __init__(self, encoder: Encoder, mean: Sequence[float], std: Sequence[float]) -> None:
        """Wrap `encoder`; `mean` and `std` are those of the training views, per channel."""
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.size = encoder.size
        self.num_features = encoder.num_features
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ArgumentError(f"mean {mean} and std {std}: give three numbers each, std above 0")
        self.register_buffer("mean_3HW", torch.tensor(self.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_3HW", torch.tensor(self.std).view(3, 1, 1), persistent=False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return features [N, F] of uint8 images, or of float images in [0, 1]."""
        normal = self.normalize(images_NCHW)
        try:
            return cast(Tensor, self.encoder(normal))
        except AssertionError as error:  # how timm's networks of one size refuse another
            height, width = images_NCHW.shape[2:]
            raise ArgumentError(
                f"images: {height} x {width} pixels, but {self.config.name} was built for "
                f"{self.size} x {self.size} ({error})"
            ) from None

    def normalize(self, images_NCHW: Tensor) -> Tensor:
        """Return uint8 images, or float images in [0, 1], as the network takes them.

        Raises:
            ArgumentError: they are of another shape or type.
        """
        if images_NCHW.ndim != 4 or images_NCHW.shape[1] != 3:
            raise ArgumentError(f"images: shape {tuple(images_NCHW.shape)}, expected [N, 3, H, W]")
        if images_NCHW.dtype == torch.uint8:
            unit = images_NCHW.to(self.mean_3HW.dtype) / 255
        elif images_NCHW.is_floating_point():
            unit = images_NCHW.to(self.mean_3HW.dtype)
        else:
            raise ArgumentError(f"images: {images_NCHW.dtype}, expected uint8 or float in [0, 1]")
        return (unit - self.mean_3HW) / self.std_3HW


OVERSHOOT = 0.5
"""How far outside [0, 1] resampled images may reach."""


class PretrainedEncoder(Normalized):
    """What `load_encoder` returns: in eval mode, with what was written beside the weights."""

    def __init__(
        self,
        encoder: Encoder,
        mean: Sequence[float],
        std: Sequence[float],
        extra: Mapping[str, Json] | None = None,
        digest: str = "",
    ) -> None:
        """Wrap `encoder` and put it into eval mode.

        `extra` is what `save_encoder` was given, `digest` that of the file of weights.
        """
        super().__init__(encoder, mean, std)
        self.extra = dict(extra or {})
        self.digest = digest
        self.eval()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return features [N, F] of uint8 images, or of float images in [0, 1].

        Floats far outside are refused: features of 0 to 255 or of normalised images look like
        features and are none.
        """
        if images_NCHW.is_floating_point() and not torch.compiler.is_compiling():
            low, high = (float(value) for value in images_NCHW.detach().aminmax())
            if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
                raise ArgumentError(
                    f"images: floats from {low:g} to {high:g}; give floats in [0, 1], not "
                    "normalised (the encoder does that), or uint8"
                )
        return super().forward(images_NCHW)


def build_encoder(config: ModelConfig, size: int, *, seed: int = 0) -> Encoder:
    """Build the encoder for images of side `size`, its weights a function of the seed alone.

    `config.weights` (encoder.safetensors, or the run that holds it) replaces them.
    """
    with seeded(seed, "encoder"):
        network = build_network(config.name, size, stem=config.stem, norm=config.norm)
    encoder = Encoder(network, config, size)
    if config.weights is not None:
        weights = config.weights / WEIGHTS if config.weights.is_dir() else config.weights
        _fill(encoder, saved.read_weights(weights, NAME)[0], f"--model.weights: {weights}")
    return encoder


def save_encoder(
    encoder: Encoder,
    directory: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    extra: Mapping[str, Json] | None = None,
    name: str = NAME,
) -> None:
    """Write the weights and what is needed to use them; `extra` is any JSON that goes with them.

    `name` is that of both files without their ending.
    """
    model = dataclasses.asdict(dataclasses.replace(encoder.config, weights=None))
    del model["weights"]
    fields: dict[str, Json] = {
        "model": model,
        "size": encoder.size,
        "num_features": encoder.num_features,
        "mean": list(mean),
        "std": list(std),
        "extra": dict(extra or {}),
    }
    saved.write(encoder, directory, name, fields)


def load_encoder(run_dir_or_file: str | Path) -> PretrainedEncoder:
    """Read a trained encoder from its run's directory, or from its encoder.safetensors.

    The module is in eval mode and maps images [N, 3, H, W], uint8 or float in [0, 1], to features
    [N, F].
    """
    return read_encoder(run_dir_or_file, NAME)


def read_encoder(run_dir_or_file: str | Path, name: str) -> PretrainedEncoder:
    """Read an encoder that `save_encoder` wrote under some name.

    Raises:
        CheckpointError: a file is missing, damaged, or not what `save_encoder` writes.
    """
    weights, description = saved.locate(run_dir_or_file, name)
    state, digest = saved.read_weights(weights, name)
    fields = saved.read_description(description)
    with saved.refusing_settings(description):
        config = _model_config(fields["model"])
        size, extra = int(fields["size"]), dict(fields["extra"])
        expected = fields["weights"]["blake2b"]
        mean, std = [float(v) for v in fields["mean"]], [float(v) for v in fields["std"]]
    saved.check_digest(digest, expected, description, weights)
    kinds = (ArgumentError, ConfigError)
    with refusing(kinds, lambda error: CheckpointError(f"{description}: {error}")):
        encoder = build_encoder(config, size)
        _fill(encoder, state, str(weights))
        return PretrainedEncoder(encoder, mean, std, extra, digest)


def _model_config(model: Mapping[str, Any]) -> ModelConfig:
    config = ModelConfig(**model)
    allowed = {
        "norm": ("batch", "group"),
        "stem": ("auto", "cifar", "imagenet"),
        "weights": (None,),
    }
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(f"model.{name} is {getattr(config, name)!r}")
    if not isinstance(config.name, str):
        raise ValueError(f"model.name is {config.name!r}")
    return config


def _fill(encoder: Encoder, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights after checking that names and shapes are those of the encoder."""
    problem = saved.misfit(encoder, state)
    if problem is not None:
        raise CheckpointError(
            f"{where}: does not fit {encoder.name} (norm {encoder.config.norm}, stem "
            f"{encoder.config.stem}) at {encoder.size} pixels: {problem}"
        )
    encoder.load_state_dict(dict(state))
