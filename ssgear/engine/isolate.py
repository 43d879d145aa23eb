"""What a phase may touch.

Gradients go to its group alone, and other groups' batch statistics are not updated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssgear.methods.base import Group


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training mode use the batch without updating running statistics."""
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def only(group: Group, groups: tuple[Group, ...]) -> Iterator[None]:
    """Differentiate and update `group` alone; the others are passed through."""
    others = [other for other in groups if other is not group]
    frozen = [p for other in others for p in other.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with frozen_statistics(nn.ModuleList(others)):
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
