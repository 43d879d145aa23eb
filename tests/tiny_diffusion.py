"""Tiny models with random weights, saved in the formats in which the real ones are published."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TOKENS = 16
WIDTH = 8
WORDS = ("a", "photo", "of", "cat", "dog", "red", "blue", "tree")


def upscaler_state(width: int = 8, blocks: int = 1, growth: int = 32) -> dict[str, Tensor]:
    """Return weights in the names of RealESRGAN_x4plus.pth."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"conv_first": (width, 3), "conv_body": (width, width)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for place in range(5):
                made = width if place == 4 else growth
                name = f"body.{block}.rdb{dense}.conv{place + 1}"
                shapes[name] = (made, width + place * growth)
    shapes |= {name: (width, width) for name in ("conv_up1", "conv_up2", "conv_hr")}
    shapes["conv_last"] = (3, width)
    state = {}
    for name, (outputs, inputs) in shapes.items():
        bound = (inputs * 9) ** -0.5
        draw = torch.rand(outputs, inputs, 3, 3, generator=generator)
        state[f"{name}.weight"] = (draw * 2 - 1) * bound * 1.7
        state[f"{name}.bias"] = (torch.rand(outputs, generator=generator) * 2 - 1) * 0.1
    state["conv_last.bias"] = torch.full((3,), 0.5)
    return state


def save_upscaler(file: Path) -> Path:
    torch.save({"params_ema": upscaler_state()}, file)
    return file


def save_captioner(folder: Path, *, end: float = 0.0) -> Path:
    """Save GIT; a large `end` lets it end at once, a very negative one never."""
    from transformers import (
        BertTokenizer,
        CLIPImageProcessor,
        GitConfig,
        GitForCausalLM,
        GitProcessor,
    )

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = BertTokenizer(vocab={name: place for place, name in enumerate(names)})
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    torch.manual_seed(3)
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = GitForCausalLM(
        GitConfig(
            **small,
            vocab_size=len(names),
            num_hidden_layers=1,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
            initializer_range=0.7,
            vision_config={
                **small,
                "num_hidden_layers": 1,
                "image_size": 16,
                "patch_size": 8,
                "initializer_range": 0.7,
            },
        )
    )
    with torch.no_grad():
        model.output.bias[:5] = -100.0
        model.output.bias[3] = end
    model.save_pretrained(folder)
    GitProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@cache
def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(number) for number in range(33, 127)]
    names = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: place for place, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TOKENS)


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = len(_tokenizer())
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def _image_encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=24,
        patch_size=6,
    )
    return CLIPVisionModelWithProjection(config)


def _feature_extractor() -> Any:
    from transformers import CLIPImageProcessor

    size = {"height": 24, "width": 24}
    return CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=size)


def _unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    )


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=64,
    )


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save_text_to_image(folder: Path, **unet: Any) -> Path:
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(7)
    pipe = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(),
        unet=_unet(**unet),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def save_variation(folder: Path) -> Path:
    from diffusers import StableDiffusionImageVariationPipeline

    torch.manual_seed(8)
    pipe = StableDiffusionImageVariationPipeline(
        vae=_vae(),
        image_encoder=_image_encoder(),
        unet=_unet(),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=_feature_extractor(),
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def save_unclip(folder: Path) -> Path:
    from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    torch.manual_seed(9)
    pipe = StableUnCLIPImg2ImgPipeline(
        feature_extractor=_feature_extractor(),
        image_encoder=_image_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(),
        unet=_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        scheduler=_scheduler(),
        vae=_vae(),
    )
    pipe.save_pretrained(folder)
    return folder
