"""Generators and critics: DCGAN, StyleGAN2, their augmentation, conditions, sampling and files."""

from ssgear.models.gan.generators import load_generator, save_generator

__all__ = ["load_generator", "save_generator"]
