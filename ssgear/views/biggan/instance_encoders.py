"""Encoders that published generators are conditioned by: a run's own, or a ResNet-50's state dict.

    encoder = load_any_encoder(Path("swav_800ep_pretrain.pth.tar"), width=2048)
    features_NF = instance_features(encoder, images, device)          # models/gan/instances.py

A ResNet-50 has torchvision's names; what stands before them (`module.`) and heads behind (`fc`,
projection heads, prototypes) do not matter. It was never checked against published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import IMAGENET_MEAN, IMAGENET_STD
from ssgear.errors import CheckpointError
from ssgear.models import saved
from ssgear.models.encoders import Encoder, PretrainedEncoder, load_encoder
from ssgear.views.biggan.network import read_state

SIDE = 224
_HEADS = ("fc.", "projection_head.", "prototypes.", "head.")


def load_any_encoder(path: Path, width: int) -> PretrainedEncoder:
    """Return an encoder whose features have `width` numbers, in eval mode.

    Raises:
        CheckpointError: the file is not there, holds something else, or its features do not fit.
    """
    option, file = "--instance-encoder", path.expanduser()
    if file.is_dir() or file.with_suffix(".json").is_file():
        encoder = load_encoder(file)
    else:
        state, digest = read_state(file, option)
        encoder = _resnet50(state, digest, f"{option}: {path}")
    if encoder.num_features != width:
        raise CheckpointError(
            f"{option}: {path}: makes features of {encoder.num_features} numbers, the generator "
            f"takes {width}; name the encoder that it was trained with"
        )
    return encoder


def _resnet50(state: Mapping[str, Tensor], digest: str, where: str) -> PretrainedEncoder:
    """Return a ResNet-50 of the weights in a state dict; `where` names it in errors."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        network = resnet50(weights=None)
    network.fc = nn.Identity()
    own = {name: value for name, value in state.items() if not name.startswith(_HEADS)}
    for name, value in network.state_dict().items():  # older files do not count batches
        if name.endswith("num_batches_tracked"):
            own.setdefault(name, torch.zeros_like(value, device="cpu"))
    problem = saved.misfit(network, own)
    if problem is not None:
        raise CheckpointError(f"{where}: these are not weights of a ResNet-50: {problem}")
    network.load_state_dict(own, assign=True)
    encoder = Encoder(network.eval(), ModelConfig(name="resnet50"), SIDE)
    return PretrainedEncoder(encoder, IMAGENET_MEAN, IMAGENET_STD, digest=digest)
