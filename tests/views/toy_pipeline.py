"""What `compile_pipeline` needs of a diffusers pipeline, in two small networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Takes what a UNet2DConditionModel takes."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv2d(4, 8, 3, padding=1)
        self.words = nn.Linear(6, 8)
        self.out = nn.Conv2d(8, 4, 3, padding=1)
        self.config = SimpleNamespace(
            in_channels=4, cross_attention_dim=6, class_embed_type=None, time_cond_proj_dim=None
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        **options: Any,
    ) -> tuple[Tensor]:
        time = (torch.as_tensor(timestep).float().reshape(-1, 1, 1, 1) / 1000).to(sample.dtype)
        hidden = self.into(sample) + self.words(encoder_hidden_states.mean(1))[:, :, None, None]
        return (self.out(torch.tanh(hidden + time)),)


class Decoder(nn.Module):
    """Takes what the decoder of an AutoencoderKL takes."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, sample: Tensor, latent_embeds: Tensor | None = None) -> Tensor:
        return self.out(nn.functional.interpolate(sample, scale_factor=2))


def toy_pipeline(seed: int = 0) -> Any:
    """Return one whose weights depend on the seed; images are twice as wide as latents."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, decoder = UNet().eval(), Decoder().eval()
    config = SimpleNamespace(block_out_channels=(8, 8), latent_channels=4)
    vae = SimpleNamespace(decoder=decoder, config=config, use_slicing=False)
    return SimpleNamespace(unet=unet, vae=vae, tokenizer=None)
