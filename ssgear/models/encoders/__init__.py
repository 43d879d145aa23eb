"""Encoders: timm's networks and the classics', with their file format."""

from ssgear.models.encoders.encoder import (
    Encoder,
    Normalized,
    PretrainedEncoder,
    build_encoder,
    load_encoder,
    save_encoder,
)
from ssgear.models.encoders.timm_weights import load_timm, open_subject

__all__ = [
    "Encoder",
    "Normalized",
    "PretrainedEncoder",
    "build_encoder",
    "load_encoder",
    "load_timm",
    "open_subject",
    "save_encoder",
]
