"""Encoders: timm's networks and the classics', with their file format."""

from ssgear.models.encoders.encoder import (
    Encoder,
    Normalized,
    PretrainedEncoder,
    build_encoder,
    load_encoder,
    save_encoder,
)

__all__ = [
    "Encoder",
    "Normalized",
    "PretrainedEncoder",
    "build_encoder",
    "load_encoder",
    "save_encoder",
]
