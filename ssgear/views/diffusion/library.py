"""What is used of diffusers' pipelines and of their parts, for the type checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ssgear.views.compile.parts import Autoencoder, Forward

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import CLIPVisionModelWithProjection, PreTrainedTokenizerBase


class Block(Protocol):
    """A block of a UNet, on the way down or up or in the middle."""

    forward: Forward
    resnets: Sequence[nn.Module]
    downsamplers: Sequence[nn.Module] | None


class UNetConfig(Protocol):
    """Shapes of a UNet."""

    block_out_channels: Sequence[int]


class UNet(Protocol):
    """A UNet2DConditionModel."""

    config: UNetConfig
    forward: Forward
    down_blocks: Sequence[Block]
    mid_block: Block | None
    up_blocks: Sequence[Block]


class Scheduler(Protocol):
    """A sampler."""

    config: Mapping[str, object]

    def set_timesteps(self, steps: int) -> None:
        """Take so many steps from now on."""


class Images(Protocol):
    """What a pipeline returns."""

    images: Tensor


class Features(Protocol):
    """What a processor makes of images."""

    pixel_values: Tensor


class Pipeline(Protocol):
    """A pipeline of Stable Diffusion; only some have an image encoder."""

    unet: nn.Module
    vae: Autoencoder
    scheduler: Scheduler
    tokenizer: PreTrainedTokenizerBase | None
    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: Callable[..., Features]
    noise_image_embeddings: Callable[..., Tensor]
    vae_scale_factor: int

    def __call__(self, *args: object, **options: object) -> Images:
        """Draw images."""

    def fuse_qkv_projections(self) -> None:
        """Take the projections of attention in one product."""
