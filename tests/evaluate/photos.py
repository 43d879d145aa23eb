"""Folders of small images and encoders without training, for tests of the command."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from PIL import Image

from ssgear.config.schema import ModelConfig
from ssgear.models.encoders import build_encoder, save_encoder

SIDE = 16


def write_photos(folder: Path, *, classes: int = 3, images: int = 30) -> Path:
    """Write images of classes c0, c1, ... whose colors differ; they look an hour old."""
    generator = torch.Generator().manual_seed(classes)
    for number in range(classes):
        (folder / f"c{number}").mkdir(parents=True)
        for row in range(images):
            pixels = torch.randint(0, 130, (SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
            pixels[..., number % 3] += 90
            file = folder / f"c{number}" / f"{row}.png"
            Image.fromarray(pixels.numpy()).save(file)
            settle(file)
    return folder


def settle(path: Path) -> None:
    """Make a file look old: one that was changed just now is not relied on."""
    stamp = path.stat().st_mtime - 3600
    os.utime(path, (stamp, stamp))


def write_encoder(
    folder: Path, *, seed: int = 0, fill: float | None = None, name: str = "4c3-6c3-8f"
) -> Path:
    """Write encoder.safetensors of random weights, the first of them filled with a number."""
    encoder = build_encoder(ModelConfig(name=name), SIDE, seed=seed)
    if fill is not None:
        with torch.no_grad():
            next(encoder.parameters()).fill_(fill)
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, folder, mean=(0.5,) * 3, std=(0.5,) * 3)
    return folder
