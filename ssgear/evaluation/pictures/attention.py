"""Where a vision transformer looks: attention of the class token in its last block.

As DINO shows it (Caron et al. 2021, arXiv 2104.14294): softmax(q k / sqrt(d)) of the class token
over all tokens, of which the patches are shown, one map for each head. Without a class token the
mean of the patches' queries takes its place. Queries and keys are those that the fused kernel
receives, after norms and rotary embeddings.

    maps_NHhw = attention_maps(load_encoder("runs/vit"), images)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssgear.evaluation.pictures.patches import PatchGrid, batches, not_a_transformer, patch_grid
from ssgear.models.encoders import Normalized
from ssgear.models.modes import evaluating


@torch.no_grad()
def attention_maps(encoder: Normalized, images_NCHW: Tensor) -> Tensor:
    """Return attention [N, heads, h, w] of the class token to every patch.

    Args:
        encoder: With a vision transformer of timm; it runs in evaluation mode.
        images_NCHW: Uint8 [N, 3, S, S], or float in [0, 1]; of the encoder's size.

    Returns:
        Float32 on the CPU, 0 or more. A map sums to 1 less what class token and registers get.

    Raises:
        ArgumentError: the images have another shape, size or type.
        ConfigError: the network has no attention between patches, or of another kind.
    """
    grid = patch_grid(encoder, images_NCHW)
    network: Any = encoder.encoder.network
    attention: Any = getattr(network.blocks[-1], "attn", None)
    if not isinstance(attention, nn.Module):
        raise not_a_transformer(encoder)
    parts: list[Tensor] = []
    with evaluating(encoder), _recording(attention) as calls:
        for images in batches(images_NCHW, encoder):
            calls.clear()
            encoder(images)
            if len(calls) != 1 or calls[0][0].shape[2] != grid.num_tokens:
                raise not_a_transformer(encoder)
            parts.append(_maps(*calls[0], grid).cpu())
    return torch.cat(parts)


def _maps(q_NHTD: Tensor, k_NHTD: Tensor, grid: PatchGrid) -> Tensor:
    """Return [N, heads, h, w] of queries and keys."""
    q_NHTD, k_NHTD = q_NHTD.float(), k_NHTD.float()
    mean_query = q_NHTD[:, :, grid.prefix :].mean(2, keepdim=True)
    query = q_NHTD[:, :, :1] if grid.has_class else mean_query
    scale = 1 / math.sqrt(q_NHTD.shape[3])
    scores = query @ k_NHTD.transpose(2, 3) * scale
    patches = scores.softmax(3)[:, :, 0, grid.prefix :]
    return patches.reshape(len(patches), -1, grid.height, grid.width)


class _Calls(TorchFunctionMode):
    """Keeps queries and keys of torch's attention while it is active."""

    def __init__(self, calls: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


@contextmanager
def _recording(attention: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the calls of torch's attention that this module makes inside the block."""
    calls: list[tuple[Tensor, Tensor]] = []
    forward, fused = attention.forward, getattr(attention, "fused_attn", None)

    def recorded(*args: Any, **options: Any) -> Any:
        with _Calls(calls):
            return forward(*args, **options)

    attention.forward = recorded
    if fused is not None:
        attention.fused_attn = True  # the other way does not call it
    try:
        yield calls
    finally:
        del attention.forward
        if fused is not None:
            attention.fused_attn = fused
