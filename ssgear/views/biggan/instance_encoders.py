"""Encoders that published generators are conditioned by: a run's own, or a ResNet-50's state dict.

    encoder = load_any_encoder(Path("swav_800ep_pretrain.pth.tar"), width=2048)
    features_NF = instance_features(encoder, images, device)          # models/gan/instances.py

A ResNet-50 has torchvision's names; what stands before them (`module.`) and heads behind (`fc`,
projection heads, prototypes) do not matter. It was never checked against published weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ssgear.errors import CheckpointError
from ssgear.models import saved
from ssgear.models.encoders import PretrainedEncoder, load_encoder
from ssgear.views.biggan.network import read_state

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
_HEADS = ("fc.", "projection_head.", "prototypes.", "head.")


class ResNet50(nn.Module):
    """A ResNet-50 without its classifier: uint8 images [N, 3, H, W] to features [N, 2048]."""

    mean_3HW: Tensor
    std_3HW: Tensor

    def __init__(self, state: dict[str, Tensor], digest: str, where: str) -> None:
        """Take the weights of a state dict; `where` names it in errors."""
        from torchvision.models import resnet50

        super().__init__()
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
        self.network = network
        self.size, self.num_features, self.digest = SIDE, 2048, digest
        for name, values in (("mean_3HW", IMAGENET_MEAN), ("std_3HW", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return features of uint8 images."""
        unit = images_NCHW.float() / 255
        return cast(Tensor, self.network((unit - self.mean_3HW) / self.std_3HW))


def load_any_encoder(
    path: Path, width: int, *, option: str = "--instance-encoder"
) -> PretrainedEncoder | ResNet50:
    """Return an encoder whose features have `width` numbers, in eval mode.

    Raises:
        CheckpointError: the file is not there, holds something else, or its features do not fit.
    """
    found = path.expanduser()
    encoder: PretrainedEncoder | ResNet50
    if found.is_dir() or found.with_suffix(".json").is_file():
        encoder = load_encoder(found)
    else:
        state, digest = read_state(found, option)
        encoder = ResNet50(state, digest, f"{option}: {path}")
    if encoder.num_features != width:
        raise CheckpointError(
            f"{option}: {path}: makes features of {encoder.num_features} numbers, the generator "
            f"takes {width}; name the encoder that it was trained with"
        )
    return encoder
