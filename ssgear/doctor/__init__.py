"""What this machine can run, what it cannot, and what would change that."""

from ssgear.doctor.command import main

__all__ = ["main"]
