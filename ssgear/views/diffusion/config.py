"""Options that every diffusion generator has, and what they mean to PyTorch and diffusers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ssgear.errors import ConfigError, require
from ssgear.views.base import Generator
from ssgear.views.diffusion.token_merging import MOST

if TYPE_CHECKING:
    import torch

SCHEDULERS: Mapping[str, str] = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Name of an option -> class of diffusers; each draws, if at all, from given generators."""
UNSEEDED = ("DPMSolverSDEScheduler",)
"""Schedulers whose noise is no function of the generators."""


_FROM_0 = ("noise_level",)
"""Whole numbers that may be 0."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Generator.Config):
    """What every diffusion generator is told."""

    model: str | None = None
    """Folder of the pipeline (diffusers' layout, safetensors), or its name on the hub."""
    size: int = 512
    """Side in pixels of what is made."""
    steps: int = 50
    """Denoising steps; few-step models (turbo, LCM) take 1 to 8."""
    guidance: float = 7.5
    """Weight of classifier-free guidance; 0 or 1 is none, as few-step models need it."""
    scheduler: Literal[
        "model", "ddim", "ddpm", "dpm-solver", "euler", "euler-ancestral", "heun", "lcm", "lms",
        "pndm", "unipc",
    ] = "model"  # fmt: skip
    """Sampler; model: the one in the folder."""
    negative_prompt: str = ""
    """What images should not show."""
    precision: Literal["auto", "float32", "float16", "bf16"] = "auto"
    """auto: float16 on a GPU, float32 on a CPU."""
    channels_last: bool = True
    """Memory layout that convolutions of a GPU prefer."""
    fuse: Literal["auto", "on", "off"] = "auto"
    """Projections of attention in one product; changes last bits. auto: on a GPU."""
    compile: Literal["auto", "tensorrt", "inductor", "onnx", "none"] = "auto"
    """What runs UNet and VAE decoder; checked before use. auto: none on a CPU."""
    captioner: str | None = None
    """Folder of GIT (safetensors), or its name on the hub: its captions are the prompts."""
    caption_tokens: int = 50
    """Tokens within which a caption has to end."""
    caption_batch: int = 16
    """Images that are described at a time."""
    diffusion_batch: int = 8
    """Images that are denoised at a time."""
    step_cache: int = 1
    """Deep features are made anew every so many steps (DeepCache): faster, other images."""
    token_merging: float = 0.0
    """Share of tokens merged around self-attention (ToMe), up to 0.75: faster, other images."""

    def __post_init__(self) -> None:
        """Refuse numbers that no sampler takes."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and field.name not in _FROM_0:
                require(value >= 1, "--" + field.name.replace("_", "-"), value, "use at least 1")
        require(0 <= self.guidance < math.inf, "--guidance", self.guidance, "use 0 or more")
        share = self.token_merging
        require(0 <= share <= MOST, "--token-merging", share, f"use 0 to {MOST}")
        if self.changes_unet and self.compile not in ("auto", "none"):
            flag = "--step-cache" if self.step_cache > 1 else "--token-merging"
            raise ConfigError(
                f"{flag}: takes the UNet apart, of which --compile {self.compile} makes one piece; "
                f"use --compile none, or leave {flag} away"
            )

    @property
    def changes_unet(self) -> bool:
        """Whether other steps are computed than the model's own."""
        return self.step_cache > 1 or self.token_merging > 0


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of numbers for an option's name.

    Raises:
        ConfigError: the device cannot compute in it.
    """
    import torch

    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("--precision: float16 needs a GPU; use bf16 or float32 on a CPU")
    known = {"float32": torch.float32, "float16": torch.float16, "bf16": torch.bfloat16}
    return known[precision]
