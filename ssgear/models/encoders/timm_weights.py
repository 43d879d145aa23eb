"""Encoders with published weights through timm, and whatever else an evaluation can measure.

`load_timm("resnet50.a1_in1k")` downloads the weights once into timm's cache;
`load_timm("/path/DIR")` reads a folder that `timm.models.save_for_hf` wrote (config.json and
model.safetensors). Mean, deviation and image size are the published ones. `open_subject` takes what
a user types: a run's directory, an encoder.safetensors, `timm:NAME` or `timm:/path/DIR`.

    encoder = open_subject("timm:vit_small_patch14_dinov2.lvd142m")
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from ssgear.config.schema import ModelConfig
from ssgear.errors import CheckpointError, ConfigError, did_you_mean, refusing
from ssgear.models.encoders.encoder import Encoder, PretrainedEncoder, load_encoder
from ssgear.models.encoders.networks import check_patches

PREFIX = "timm:"
CHANNELS = 3
REASON_LENGTH = 200
"""Characters of a reason that are shown: timm lists every weight that does not fit."""


def open_subject(text: str) -> PretrainedEncoder:
    """Load the encoder of a run's directory, an encoder.safetensors, or `timm:NAME`.

    Raises:
        CheckpointError: its files or weights cannot be read.
        ConfigError: timm does not know the name.
    """
    if text.startswith(PREFIX):
        return load_timm(text.removeprefix(PREFIX))
    return load_encoder(text)


def load_timm(name: str, *, size: int | None = None) -> PretrainedEncoder:
    """Load a network of timm with its published weights, without its classifier.

    Args:
        name: Name of a model with or without its tag, or a folder in timm's own format (what has a
            slash in it).
        size: Side of the images in pixels; by default the published one. Transformers resample
            their position embedding for another.

    Returns:
        The encoder in evaluation mode; `digest` is that of its weights, at that size.

    Raises:
        CheckpointError: the weights cannot be downloaded or read.
        ConfigError: timm has no such model or no weights for it, or it cannot take the size.
    """
    is_folder = os.sep in name
    source = f"local-dir:{Path(name).expanduser()}" if is_folder else name
    if not is_folder:
        _check_name(name)
    advice = (
        "expected a folder with timm's config.json and model.safetensors"
        if is_folder
        else f"check the connection, or name a local folder: {PREFIX}/path/DIR"
    )

    def refusal(error: Exception) -> CheckpointError:
        reason = " ".join(str(error).split())[:REASON_LENGTH] or type(error).__name__
        return CheckpointError(f"{PREFIX}{name}: cannot load the weights ({reason}); {advice}")

    # the hub's client, its transport and the readers of weights raise errors of many families
    with refusing(Exception, refusal), _quiet_hub():
        network = _create(source, size)
    published: dict[str, Any] = network.pretrained_cfg
    channels, side, _ = published["input_size"]
    if channels != CHANNELS:
        raise ConfigError(f"{PREFIX}{name}: takes {channels} channels (expected {CHANNELS})")
    config = ModelConfig(name=_model_name(name, published), stem="imagenet")
    with refusing(ConfigError, lambda error: ConfigError(f"{PREFIX}{name}: {error}")):
        check_patches(network, config.name, size or side)
        encoder = Encoder(network, config, size or side)
    return PretrainedEncoder(
        encoder, published["mean"], published["std"], {"timm": name}, digest_of_weights(network)
    )


def digest_of_weights(network: nn.Module) -> str:
    """Return a digest of names, shapes, types and values of a network's weights and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_name(name: str) -> None:
    """Refuse what timm does not know or has no weights for, before anything is downloaded."""
    if not timm.is_model(name):
        near = did_you_mean(name.partition(".")[0], timm.list_models(), PREFIX)
        raise ConfigError(
            f"{PREFIX}{name}: unknown model{near}; use a model of timm, or a folder as "
            f"{PREFIX}/path/DIR"
        )
    known = timm.list_pretrained(f"{name.partition('.')[0]}.*") or ["none"]
    listing = f"published: {', '.join(known)}"
    unknown_tag = ConfigError(f"{PREFIX}{name}: no weights of this name; {listing}")
    with refusing(RuntimeError, lambda _: unknown_tag):
        published = get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise unknown_tag


def _create(source: str, size: int | None) -> Any:
    """Build a network with all of its weights, then drop its classifier.

    With `num_classes=0` timm would take a file in which weights are missing.
    """
    sized: dict[str, Any] = {} if size is None else {"img_size": size}
    try:
        network: Any = timm.create_model(source, pretrained=True, **sized)
    except TypeError:  # networks of convolutions have no img_size
        network = timm.create_model(source, pretrained=True)
    network.reset_classifier(0)
    return network


def _model_name(name: str, published: dict[str, Any]) -> str:
    """Return the name of the network, by which timm can build it again."""
    return str(published["architecture"]) if os.sep in name else name


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hide the lines of each attempt to reach the hub; its last error says the same."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
