"""Features of images by a frozen encoder."""

from ssgear.evaluation.features.extract import extract, pixels

__all__ = ["extract", "pixels"]
