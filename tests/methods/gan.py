"""A small GAN + SSL on the embedded images, as the trainer builds it, and its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.methods.base import Facts, Group, Phase, check_groups
from ssgear.methods.gan_ssl.method import GanSSL
from ssgear.models.encoders import build_encoder
from tests.engine.training import train

SIDE, ROWS, CLASSES, IMAGES = 16, 6, 3, 24
SMALL = (
    "--method", "gan-ssl", "--method.generator-width", "4", "--method.critic-width", "4",
    "--method.noise-dim", "8", "--method.generator-norm", "group", "--method.ssl-options",
    "projector_dims=16,8", "--optim.warmup-epochs", "0",
)  # fmt: skip


def train_gan(output: Path, *options: str) -> list[float]:
    """Train a few steps and return the loss column."""
    return train(output, *SMALL, *options)


def build(*, norm: str = "group", **settings: Any) -> GanSSL:
    """Build the method for images of 16 pixels in three classes."""
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm=norm), SIDE, seed=0)  # type: ignore[arg-type]
    small: dict[str, Any] = {"generator_width": 4, "critic_width": 4, "noise_dim": 8}
    small |= {"generator_norm": "group", "ssl_options": ("projector_dims=16,8",), "n_critic": 1}
    chosen = {**small, **settings}
    if chosen.get("generator") == "stylegan2":
        del chosen["generator_norm"]  # it has none
    config = GanSSL.Config(**chosen)
    facts = Facts(
        augmentation=view_set("simclr-cifar"),
        num_images=IMAGES,
        num_classes=CLASSES,
        epochs=10,
    )
    method = GanSSL.build(config, encoder, facts)
    check_groups(method)
    return method


def make_batch(method: GanSSL, phase: str, *, progress: float = 0.3, **fields: Any) -> Batch:
    """Return a batch of random images as a loader would hand it to a phase."""
    generator = torch.Generator().manual_seed(5)
    everything = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator) * 2 - 1
    index = torch.arange(ROWS) * 3
    views = [torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) for _ in range(2)]
    batch: dict[str, Any] = {
        "views": views, "index": index, "position": torch.arange(ROWS),
        "images": everything[index], "fetch": lambda places: everything[places],
        "labels": index % CLASSES, "step": 3, "progress": progress, "phase": phase,
    }  # fmt: skip
    return Batch(**{**batch, **fields})


def phase_named(method: GanSSL, name: str) -> Phase:
    """Return a phase of the method."""
    return next(phase for phase in method.phases if phase.name == name)


def group_of(method: GanSSL, phase: Phase) -> Group:
    """Return the group that a phase steps."""
    return next(group for group in method.groups if group.name == phase.group)


def weights_of(method: torch.nn.Module) -> dict[str, Tensor]:
    """Return copies of all weights and buffers."""
    return {name: value.detach().clone() for name, value in method.state_dict().items()}
