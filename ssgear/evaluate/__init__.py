"""Measure an encoder, a run's generator or a view store: `python -m ssgear.evaluate RUN`."""

from ssgear.evaluate.command import main

__all__ = ["main"]
