"""Inception-v3 as FID takes it, from a local file of weights; nothing is downloaded.

    inception = load_inception(Path("weights-inception-2015-12-05-6726825d.pth"))
    fid(inception, made, real, about=About(...))      # {"fid": ..., "fid_protocol": ...}

Heusel et al. 2017 (arXiv 1706.08500). Network and resizing to 299 pixels are those of the published
TensorFlow graph as torch-fidelity converted it, run through torchmetrics without antialiasing,
which would change the value by more than a percent. A FID means something only with its protocol:
how many images, against which. So it is never returned without it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError, CheckpointError, MissingDependencyError
from ssgear.evaluation.features import extract
from ssgear.evaluation.generated.fid import Moments
from ssgear.models.saved import read_plain

FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file as torch-fidelity publishes it."""
FEATURES = "2048"
"""Output of the last pooling, which FID is defined on."""
BATCH = 50
"""Images at a time: each is 299 pixels wide in there."""
BLOCK = 40 * BATCH
"""Images whose features are there at a time."""


@dataclass(frozen=True, kw_only=True)
class Inception:
    """The network, and which weights it has."""

    network: nn.Module
    """Uint8 [N, 3, H, W] to features [N, 2048], in evaluation mode."""
    digest: str
    """Of the file of weights."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a FID is of, beside the numbers of images."""

    real: str
    """Which real images: `test images of cifar10`."""
    condition: str
    """What the generator is conditioned on: none, label, or instance (also called vector)."""
    seed: int
    """Of the noise."""


def load_inception(
    path: Path, *, option: str = "--inception", features: str = FEATURES
) -> Inception:
    """Read the network.

    Args:
        path: A state dict in torch-fidelity's names; read without running code from it.
        option: Who asked, for errors.
        features: Layer: 64, 192, 768 or 2048, by its width.

    Raises:
        MissingDependencyError: torchmetrics or torch-fidelity is not installed.
        CheckpointError: the file is not there, or holds something else.
    """
    wanted = f"name the file that torch-fidelity publishes, {FILE}"
    state, data = read_plain(path, option=option, wanted=wanted)
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        # torch-fidelity would unpickle whatever a file holds: it gets the tensors that were read
        safe = io.BytesIO()
        torch.save(state, safe)
        safe.seek(0)
        network: Any = NoTrainInceptionV3
        name = "inception-v3-compat"
        found = network(name, [features], feature_extractor_weights_path=safe, antialias=False)
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        return Inception(network=found, digest=digest)
    except ImportError:
        raise MissingDependencyError(
            f"{option}: FID needs torchmetrics and torch-fidelity; install both with "
            'pip install "ssgear[fid]", or leave it out'
        ) from None
    except RuntimeError:
        raise CheckpointError(
            f"{option}: {path}: these are not Inception-v3's weights as torch-fidelity publishes "
            f"them ({FILE})"
        ) from None


def fid(
    inception: Inception,
    made: Tensor,
    real: Tensor,
    *,
    about: About,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Return `fid`, and `fid_protocol`, one line that belongs to it.

    Both sets are uint8 [N, 3, H, W] with N >= 2; covariances are taken in float64, with the factor
    1 / (N - 1). Beside the images the memory that is needed does not grow with N.
    """
    network = inception.network if device is None else inception.network.to(device)
    value = _moments(network, made, device).distance(_moments(network, real, device))
    return {"fid": value, "fid_protocol": protocol_of(made, real, about, inception.digest)}


def _moments(network: nn.Module, images: Tensor, device: torch.device | None) -> Moments:
    if len(images) < 2:
        raise ArgumentError(f"fid: {len(images)} image(s); give at least 2 of each kind")
    found = Moments()
    for block in torch.split(images, BLOCK):
        features = extract(network, block, batch_size=BATCH, device=device)
        if not bool(torch.isfinite(features).all()):
            raise ArgumentError("fid: Inception's features hold values that are not finite")
        found.add(features)
    return found


def protocol_of(made: Tensor, real: Tensor, about: About, digest: str) -> str:
    """Return what a FID was computed of, in one line."""
    of = {"none": "", "label": ", of the labels of the real ones"}
    given = of.get(about.condition, ", each conditioned on a real one")
    return (
        f"{len(made):,} synthetic images of {made.shape[-1]} pixels (noise of seed {about.seed}"
        f"{given}) against {len(real):,} {about.real} as squares of {real.shape[-1]} pixels; "
        f"Inception-v3 of weights {digest}, resized without antialiasing"
    )
