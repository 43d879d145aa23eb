"""ssgear: train image encoders from unlabelled images.

Importing the package does no work and imports no torch; `load_encoder` is found on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssgear.models.encoders import load_encoder as load_encoder

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import `load_encoder` when it is first asked for: torch takes seconds, `--help` must not."""
    if name == "load_encoder":
        from ssgear.models.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module 'ssgear' has no attribute {name!r}")
