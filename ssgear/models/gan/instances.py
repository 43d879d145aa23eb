"""What an instance-conditioned generator is conditioned on, after the run that trained it.

    encoder = load_instance_encoder(run)                  # instance_encoder.safetensors and .json
    condition_NF = instance_features(encoder, images, device)  # of uint8 images
    images = synthetic_for(read_generator(run), run, images, labels, seed=0, device=device)

It is the average of the run's encoder that generator and critic were trained with, not the encoder
that the run exports. Shapes: N images, F numbers of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.errors import CheckpointError, DataError
from ssgear.models.encoders.encoder import Encoder, PretrainedEncoder, read_encoder, save_encoder
from ssgear.models.gan.generators import SavedGenerator
from ssgear.models.gan.sampling import BLOCK, sample_uint8

NAME = "instance_encoder"


def save_instance_encoder(
    encoder: Encoder, directory: Path, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write the encoder with the weights that it has now."""
    save_encoder(encoder, directory, mean=mean, std=std, name=NAME)


def load_instance_encoder(run_dir_or_file: Path) -> PretrainedEncoder:
    """Read the encoder of a run, named by its directory or its generator.safetensors.

    Raises:
        CheckpointError: it is not there, damaged, or something else.
    """
    path = run_dir_or_file.expanduser()
    return read_encoder(path if path.is_dir() else path.parent, NAME)


@torch.no_grad()
def instance_features(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return features [N, F] float32 of length 1 of images uint8 [N, 3, H, W], on a device."""
    parts = [part.to(device) for part in torch.split(images, BLOCK)]
    return torch.cat([F.normalize(encoder(part).float()) for part in parts])


def synthetic_for(
    found: SavedGenerator,
    run: Path,
    images: Tensor,
    labels: Tensor | None,
    *,
    seed: int,
    device: torch.device,
) -> Tensor:
    """Return as many synthetic images as real ones, uint8 [N, 3, R, R], made of noise (seed, i).

    Row i is conditioned on image i or its label where the generator is conditioned at all.

    Raises:
        CheckpointError: features are needed and their encoder is not there, or does not fit.
        DataError: labels are needed and there are none, or other classes.
    """
    generator = found.generator.to(device)
    condition = found.generator.config.condition
    given: Callable[[slice], Tensor] | None = None
    if condition.kind == "vector":
        encoder = fitting(load_instance_encoder(run), condition.size, run).to(device)

        def given(rows: slice) -> Tensor:
            return instance_features(encoder, images[rows], device)

    elif condition.kind == "label":
        known = _labels_of(found, run, labels)
        given = known.__getitem__
    return sample_uint8(generator, len(images), seed, condition=given)


def check_condition(found: SavedGenerator, run: Path, labels: Tensor | None) -> None:
    """Raise what `synthetic_for` would where what the generator is conditioned on is missing."""
    condition = found.generator.config.condition
    if condition.kind == "vector":
        fitting(load_instance_encoder(run), condition.size, run)
    elif condition.kind == "label":
        _labels_of(found, run, labels)


def _labels_of(found: SavedGenerator, run: Path, labels: Tensor | None) -> Tensor:
    size = found.generator.config.condition.size
    if labels is None or int(labels.max()) >= size:
        raise DataError(
            f"{run}: its generator draws images of {size} classes, and these images "
            f"have {'no labels' if labels is None else 'more'}; use those that it learned from"
        )
    return labels


def fitting(encoder: PretrainedEncoder, size: int, run: Path) -> PretrainedEncoder:
    """Return the encoder once it is sure that a generator takes its features."""
    if encoder.num_features != size:
        raise CheckpointError(
            f"{run}: {NAME}.json makes features of {encoder.num_features} numbers, the generator "
            f"takes {size}; copy all files from one run"
        )
    return encoder
