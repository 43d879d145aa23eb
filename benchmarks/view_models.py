"""The networks of the caption route in their published sizes or tiny, with random weights.

Only shapes decide how long they take, so that no weights are needed. `stages` returns what can be
run once for a batch: text encoder, super-resolution and captioning as diffusers, spandrel and
transformers document them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

TOKENS = 77
CAPTION_TOKENS = 16
"""Tokens of a caption: about twelve words."""
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "sd2": {
        "image": {"side": 512, "source": 128, "caption": 224},
        "unet": {
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        "vae": {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
        },
        "text": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
        },
        "upscale": {"num_feat": 64, "num_block": 23},
        "caption": {},
    },
    "tiny": {
        "image": {"side": 64, "source": 16, "caption": 32},
        "unet": {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 32,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "use_linear_projection": True,
        },
        "vae": {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "norm_num_groups": 8,
        },
        "text": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "upscale": {"num_feat": 8, "num_block": 1},
        "caption": {
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 16,
            },
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
    },
}
"""Stable Diffusion 2, Real-ESRGAN x4, GIT base; and what runs in milliseconds on a CPU."""


def pipeline(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Return UNet and VAE as diffusers advises for speed: half precision, channels-last, SDPA."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of modules to keep in float32, of which there are none
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SIZES[size]["unet"])
    vae = AutoencoderKL(**SIZES[size]["vae"], latent_channels=4)
    ready = [
        each.to(device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        for each in (unet, vae)
    ]
    tokenizer = SimpleNamespace(model_max_length=TOKENS)
    return SimpleNamespace(unet=ready[0], vae=ready[1], tokenizer=tokenizer)


def stages(
    size: str, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """Return what runs text encoder, super-resolution and captioning once for a batch."""
    return {
        "text encode": _text(size, batch, device, dtype),
        "upscale": _upscale(size, batch, device, dtype),
        "caption": _caption(size, batch, device, dtype),
    }


def _text(size: str, batch: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(**SIZES[size]["text"], max_position_embeddings=TOKENS)
    model = CLIPTextModel(config).to(device, dtype).eval()
    tokens = torch.randint(0, 1000, (2 * batch, TOKENS), device=device)  # with the empty prompts
    return lambda: model(tokens).last_hidden_state


def _upscale(
    size: str, batch: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    from spandrel.architectures.ESRGAN import ESRGAN

    own = SIZES[size]["upscale"]
    network = ESRGAN(
        in_nc=3, out_nc=3, scale=4, num_filters=own["num_feat"], num_blocks=own["num_block"]
    )
    network = network.to(device, dtype).to(memory_format=torch.channels_last).eval()
    side = SIZES[size]["image"]["source"]
    images = torch.rand(batch, 3, side, side, device=device).to(dtype)
    return lambda: network(images)


def _caption(
    size: str, batch: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    from transformers import GitConfig, GitForCausalLM

    model = GitForCausalLM(GitConfig(**SIZES[size]["caption"])).to(device, dtype).eval()
    side = SIZES[size]["image"]["caption"]
    pixels = torch.rand(batch, 3, side, side, device=device).to(dtype)
    # random weights end anywhere: as many tokens as asked for, never fewer
    tokens = {"min_new_tokens": CAPTION_TOKENS, "max_new_tokens": CAPTION_TOKENS}
    return lambda: model.generate(pixel_values=pixels, do_sample=False, num_beams=1, **tokens)
