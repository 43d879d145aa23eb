r"""The instance route: views of an image by diffusion that is conditioned on the image itself.

    python -m ssgear.generate --generator sd-image --model FOLDER --data.path DIR --output STORE \
        --views 10 --steps 10 --guidance 10 --scheduler ddim

The folder says which of three it is: unCLIP (noise on the image's CLIP embedding by --noise-level,
or by its share of foreground with --adaptive-noise), image variation (the embedding alone), or any
Stable Diffusion as img2img (the noised image itself, --strength). Prompts are fixed, or captions
with --captioner. Loading, noise and checks are in diffusion/pipeline.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ssgear.errors import ConfigError, require
from ssgear.views.base import Json, Views
from ssgear.views.diffusion.config import DiffusionConfig
from ssgear.views.diffusion.pipeline import Diffusion
from ssgear.views.diffusion.rows import CAPTION, Described, Row, generators, images_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssgear.views.diffusion.library import Pipeline

PRESETS: dict[str, dict[str, Json]] = {
    # the published setting of generative views (GenerativeSSL): SD-2.1-unCLIP-small, 10 an image
    "sd-image-unclip": {
        "kind": "unclip",
        "scheduler": "ddim",
        "steps": 10,
        "guidance": 10.0,
        "views": 10,
        "format": "jpg",
    },
}
KINDS: Mapping[str, str] = {
    "StableUnCLIPImg2ImgPipeline": "unclip",
    "StableDiffusionImageVariationPipeline": "variation",
    "StableDiffusionPipeline": "img2img",
    "StableDiffusionImg2ImgPipeline": "img2img",
    "LatentConsistencyModelPipeline": "img2img",
    "LatentConsistencyModelImg2ImgPipeline": "img2img",
}
"""Class in a folder's index -> how it is used."""
CLASSES: Mapping[str, str] = {
    "unclip": "StableUnCLIPImg2ImgPipeline",
    "variation": "StableDiffusionImageVariationPipeline",
    "img2img": "StableDiffusionImg2ImgPipeline",
}
"""How it is used -> class of diffusers."""
LEVELS = (0, 100, 200, 300, 400)
"""Noise levels for fifths of the share of foreground."""


class SDImage(Described):
    """unCLIP, image variation or img2img."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DiffusionConfig):
        """Which model, and what it keeps of an image."""

        kind: Literal["auto", "unclip", "variation", "img2img"] = "auto"
        """How the model sees the image; auto: as its folder says."""
        steps: int = 20
        """Denoising steps; few-step models (turbo, LCM) take 1 to 8."""
        input_size: int | None = None
        """Side in pixels of the originals; by default what the model looks at."""
        noise_level: int = 0
        """Noise on the image's embedding, 0 to 999 (unCLIP): more is further from the image."""
        adaptive_noise: bool = False
        """Noise level by the image's share of foreground, 0 to 400, on top of --noise-level."""
        strength: float = 0.6
        """Share of the denoising that is done anew, in (0, 1] (img2img)."""
        prompt: str = ""
        """Told to the model with every image; with --captioner where a caption is of no use."""

        def __post_init__(self) -> None:
            """Refuse numbers that no model takes."""
            super().__post_init__()
            require(0 <= self.noise_level < 1000, "--noise-level", self.noise_level, "use 0 to 999")
            require(0 < self.strength <= 1, "--strength", self.strength, "use more than 0, up to 1")

    def __init__(self, config: Config, device: torch.device) -> None:
        """Load the model.

        Raises:
            SsgearError: it is not named, not there, or of another kind than the options are for.
        """
        import torch

        from ssgear.views.diffusion.caption import load_captioner
        from ssgear.views.diffusion.folders import find_pipeline

        folder = find_pipeline("--model", config.model, tuple(KINDS))
        self.kind = KINDS[folder.kind]
        if config.kind not in ("auto", self.kind):
            raise ConfigError(
                f"--kind: {config.kind} is not what {folder.path} holds, a {folder.kind}; use "
                f"--kind {self.kind}, or auto"
            )
        self.config, self.device, self.size = config, device, config.size
        self._refuse_what_is_for_others()
        self.batch_size = 4 * config.diffusion_batch
        self.captioner = None if config.captioner is None else load_captioner(config, device)
        self.shares = CAPTION if self.captioner is not None else ()
        self.diffusion = Diffusion(config, folder, CLASSES[self.kind], device)
        side = config.input_size or self._looked_at()
        self.image_size = side
        self.diffusion.compile(self._call, torch.zeros(3, side, side, dtype=torch.uint8))
        self.notes = self.diffusion.notes
        self.settings = self._settings()
        # stages remember how much fits in memory
        self.stages = (self.diffusion.stage(self._call),)
        if self.captioner is not None:
            caption = self.captioner.stage(config.caption_batch, images_of, config.prompt)
            self.stages = (caption, *self.stages)

    def _refuse_what_is_for_others(self) -> None:
        config, default, kind = self.config, type(self.config)(), self.kind
        owners = {
            "noise_level": ("unclip",),
            "adaptive_noise": ("unclip",),
            "strength": ("img2img",),
            "prompt": ("unclip", "img2img"),
            "negative_prompt": ("unclip", "img2img"),
            "captioner": ("unclip", "img2img"),
        }
        for option, kinds in owners.items():
            if getattr(config, option) != getattr(default, option) and kind not in kinds:
                raise ConfigError(
                    f"--{option.replace('_', '-')}: {config.model} is used as {kind}; the option "
                    f"is for {' and '.join(kinds)}"
                )
        if kind == "img2img" and int(config.steps * config.strength) < 1:
            raise ConfigError(
                f"--strength: {config.strength:g} of --steps {config.steps} is less than one step; "
                f"use at least {least_strength(config.steps):g}"
            )

    def _looked_at(self) -> int:
        """Return the side of the squares that the model looks at."""
        if self.kind == "img2img":
            return self.config.size
        side: int = self.diffusion.pipe.image_encoder.config.image_size
        return side

    def _settings(self) -> dict[str, Json]:
        config = self.config
        own: dict[str, Json] = {"kind": self.kind, "input_size": self.image_size}
        if self.kind == "unclip":
            own |= {"noise_level": config.noise_level, "adaptive_noise": config.adaptive_noise}
        if self.kind == "img2img":
            own["strength"] = float(config.strength)
        if self.kind != "variation":
            own["prompt"] = config.prompt
        if self.captioner is None:
            return self.diffusion.settings(**own)
        return {
            **self.diffusion.settings(**own, caption_tokens=config.caption_tokens),
            "captioner": self.captioner.digest,
            "caption_batch": config.caption_batch,
        }

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Make a view of each image."""
        assert images is not None, "makes views of images"
        config = self.config
        rows = [
            Row(image=image, seed=seed, prompt=config.prompt)
            for image, seed in zip(images, seeds, strict=True)
        ]
        if self.kind != "variation":
            for row in rows:
                row.metadata["prompt"] = row.prompt
        return self.drawn(rows, self.stages)

    def _call(self, pipe: Pipeline, rows: Sequence[Row]) -> Tensor:
        config = self.config
        common: dict[str, object] = {
            "num_inference_steps": config.steps,
            "guidance_scale": config.guidance,
            "generator": generators(rows),
            "output_type": "pt",
        }
        if self.kind != "variation":
            common["prompt"] = [row.prompt for row in rows]
            common["negative_prompt"] = [config.negative_prompt] * len(rows)
        if self.kind == "img2img":
            return pipe(image=self._resized(rows), strength=config.strength, **common).images
        pixels = pipe.feature_extractor(
            images=[row.image for row in rows], return_tensors="pt"
        ).pixel_values
        if self.kind == "unclip":
            pipe.noise_image_embeddings = self._noised(pipe, pixels, rows)
        return pipe(image=pixels, height=config.size, width=config.size, **common).images

    def _resized(self, rows: Sequence[Row]) -> Tensor:
        """Return images [n, 3, size, size] in [0, 1]."""
        from torch.nn import functional as F

        images = images_of(rows).float() / 255
        if images.shape[-1] == self.size:
            return images
        side = (self.size, self.size)
        return F.interpolate(images, side, mode="bicubic", antialias=True).clamp(0, 1)

    def _noised(self, pipe: Pipeline, pixels: Tensor, rows: Sequence[Row]) -> Callable[..., Tensor]:
        """Return a function that noises embeddings row by row, each at its own level.

        The pipeline's own knows one level for all rows.
        """
        import torch

        published = type(pipe).noise_image_embeddings
        levels = self._levels(pipe, pixels)
        for row, level in zip(rows, levels, strict=True):
            row.metadata["noise_level"] = level

        def noised(
            image_embeds: Tensor, generator: Sequence[torch.Generator], **options: object
        ) -> Tensor:
            triples = zip(image_embeds[:, None], levels, generator, strict=True)
            parts = [published(pipe, row, level, generator=draw) for row, level, draw in triples]
            return torch.cat(parts)

        return noised

    def _levels(self, pipe: Pipeline, pixels: Tensor) -> list[int]:
        base = self.config.noise_level
        if not self.config.adaptive_noise:
            return [base] * len(pixels)
        encoder = pipe.image_encoder
        inputs = pixels.to(encoder.device, encoder.dtype)
        patches: Tensor = encoder.vision_model(inputs).last_hidden_state[:, 1:].float()
        side = round(patches.shape[1] ** 0.5)
        shares = foreground_share(patches.reshape(len(patches), side, side, -1))
        return [min(base + noise_level(share), 999) for share in shares.tolist()]


def least_strength(steps: int) -> float:
    """Return a strength of few digits that leaves one step of so many."""
    places = len(str(steps)) + 1
    whole: int = 10**places
    return math.ceil(whole / steps) / whole


def foreground_share(features: Tensor) -> Tensor:
    """Return the share [n] float64 of patches that are foreground, of features [n, P, P, C].

    GenView's idea (Li et al. 2024, arXiv 2403.12003): the noise on the image condition is chosen
    for each image by its share of foreground, which a principal component of a frozen encoder's
    patch features shows. A large subject can bear much noise and stays what it is; of a small one
    the background would take over. Ours: the features are those of the image encoder of the
    pipeline itself; the component is taken from the patches of one image, so that a view depends on
    its own image only; of its two sides the one with less of the image's border is foreground.
    """
    import torch

    n, height, width, channels = features.shape
    # of an overflow nothing is known: no foreground, and no decomposition, which it would end
    finite = features.isfinite().flatten(1).all(1)
    features = torch.where(finite[:, None, None, None], features, torch.zeros_like(features))
    flat = features.double().cpu().reshape(n, height * width, channels)
    flat = flat - flat.mean(1, keepdim=True)
    _, strength, directions = torch.linalg.svd(flat, full_matrices=False)
    side = (flat @ directions[:, :1].mT).squeeze(-1) > 0
    border = torch.ones(height, width, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    on_border = border.reshape(-1)
    # which sign the component has is chance: the foreground is where the border mostly is not
    on, off = side.double(), (~side).double()
    is_on = on[:, on_border].mean(1) <= off[:, on_border].mean(1)
    share = torch.where(is_on, on.mean(1), off.mean(1))
    has_parts = strength[:, 0] > 1e-9 * (1 + features.double().cpu().abs().amax((1, 2, 3)))
    return torch.where(has_parts, share, torch.zeros_like(share))


def noise_level(share: float) -> int:
    """Return the level for a share of foreground in [0, 1]: 0, 100, 200, 300, 400 for its fifths.

    Written from memory of the paper and not compared with its code: its exact mapping is
    unverified.
    """
    return LEVELS[min(int(share * len(LEVELS)), len(LEVELS) - 1)]
