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

from ssgear.views.compile.parts import Inputs, Part

TOKENS = 77
CAPTION_TOKENS = 16
"""Tokens of a caption: about twelve words."""


def autoencoder(channels: tuple[int, ...], layers: int) -> dict[str, Any]:
    """Return what VAEs of both sizes are set to."""
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "layers_per_block": layers,
    }


def transformer(width: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    """Return what every transformer is set to."""
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "sd2": {
        "image": {"side": 512, "source": 128, "caption": 224},
        "unet": {
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        "vae": autoencoder((128, 256, 512, 512), 2),
        "text": transformer(1024, 4096, 23, 16),
        "upscale": {"num_filters": 64, "num_blocks": 23},
        "caption": {},
    },
    "tiny": {
        "image": {"side": 64, "source": 16, "caption": 32},
        "unet": {
            "block_out_channels": (32, 64),
            "attention_head_dim": (2, 4),
            "cross_attention_dim": 32,
            "use_linear_projection": True,
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        "vae": {**autoencoder((16, 32), 1), "norm_num_groups": 8},
        "text": transformer(32, 64, 2, 2),
        "upscale": {"num_filters": 8, "num_blocks": 1},
        "caption": {
            "vision_config": {**transformer(32, 64, 1, 2), "image_size": 32, "patch_size": 16},
            **transformer(32, 64, 1, 2),
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
    for part in (unet, vae):
        part.to(device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    tokenizer = SimpleNamespace(model_max_length=TOKENS)
    return SimpleNamespace(unet=unet, vae=vae, tokenizer=tokenizer)


def stages(
    size: str, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], Tensor]]:
    """Return what runs text encoder, super-resolution and captioning once for a batch."""
    from spandrel.architectures.ESRGAN import ESRGAN
    from transformers import CLIPTextConfig, CLIPTextModel, GitConfig, GitForCausalLM

    settings = SIZES[size]
    text = CLIPTextConfig(**settings["text"], max_position_embeddings=TOKENS)
    encoder = CLIPTextModel(text).to(device, dtype).eval()
    tokens = torch.randint(0, 1000, (2 * batch, TOKENS), device=device)  # with the empty prompts
    upscaler = ESRGAN(in_nc=3, out_nc=3, scale=4, **settings["upscale"]).to(device, dtype)
    upscaler = upscaler.to(memory_format=torch.channels_last).eval()
    captioner = GitForCausalLM(GitConfig(**settings["caption"])).to(device, dtype).eval()
    images, pixels = (
        torch.rand(batch, 3, settings["image"][name], settings["image"][name], device=device)
        for name in ("source", "caption")
    )
    images, pixels = images.to(dtype), pixels.to(dtype)
    # random weights end anywhere: as many tokens as asked for, never fewer
    length = {"min_new_tokens": CAPTION_TOKENS, "max_new_tokens": CAPTION_TOKENS}
    return {
        "text encode": lambda: encoder(tokens).last_hidden_state,
        "upscale": lambda: upscaler(images),
        "caption": lambda: captioner.generate(
            pixel_values=pixels, do_sample=False, num_beams=1, **length
        ),
    }


def drawn(pipe: Any, part: Part, rows: int, height: int, width: int) -> Inputs:
    """Return random inputs of a part in the shapes that its model's configuration says.

    `rows` are the images of a batch; guidance hands the UNet twice as many.
    """
    weight = next(part.module.parameters())
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    space = (height // scale, width // scale)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(weight)

    if part.name != "unet":
        count = 1 if getattr(pipe.vae, "use_slicing", False) else rows
        return {"sample": noise(count, pipe.vae.config.latent_channels, *space)}
    config = pipe.unet.config
    tokenizer = getattr(pipe, "tokenizer", None)
    tokens = 1 if tokenizer is None else tokenizer.model_max_length
    rows *= 2
    inputs = {
        "sample": noise(rows, config.in_channels, *space),
        "timestep": torch.full((rows,), 500.0, device=weight.device),
        "encoder_hidden_states": noise(rows, tokens, config.cross_attention_dim),
    }
    if config.class_embed_type == "projection":
        inputs["class_labels"] = noise(rows, config.projection_class_embeddings_input_dim)
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = noise(rows, config.time_cond_proj_dim)
    return inputs
