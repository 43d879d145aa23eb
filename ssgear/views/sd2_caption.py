r"""The caption route: an image is enlarged, described, and drawn anew from the description.

    python -m ssgear.generate --generator sd2-caption --data.path DIR --output STORE \
        --model SD2_FOLDER --captioner GIT_FOLDER --upscaler RealESRGAN_x4plus.pth

Real-ESRGAN x4 (diffusion/upscale.py) -> GIT (diffusion/caption.py) -> Stable Diffusion 2
(diffusion/pipeline.py), each in slices of its own size, at the same time (diffusion/stages.py). The
enlarged originals are kept: training by `--views.policy pair` shows one beside its view. What is
drawn is decided by caption and seed alone, so that further views of an image (--views) begin at its
caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import ConfigError
from ssgear.views.base import Json, Views
from ssgear.views.diffusion.config import DiffusionConfig, dtype_of
from ssgear.views.diffusion.pipeline import Diffusion
from ssgear.views.diffusion.rows import CAPTION, Described, Row, generators, images_of
from ssgear.views.diffusion.stages import Stage
from ssgear.views.diffusion.upscale import SCALE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssgear.views.diffusion.library import Pipeline

PRESETS: dict[str, dict[str, Json]] = {
    # the caption route on Tiny ImageNet: 64 -> 256 -> caption -> 512
    "sd2-caption-tiny-imagenet": {
        "data.source": "tiny-imagenet",
        "input_size": 64,
        "size": 512,
        "steps": 50,
        "guidance": 7.5,
        "views": 1,
        "format": "jpg",
    },
}
KINDS = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
)
"""Pipelines whose parts draw from text."""


class SD2Caption(Described):
    """Real-ESRGAN, GIT and Stable Diffusion 2 in a row."""

    shares = CAPTION

    @dataclass(frozen=True, kw_only=True)
    class Config(DiffusionConfig):
        """Which models, and how they are used."""

        upscaler: Path | None = None
        """Weight file of Real-ESRGAN x4 (RealESRGAN_x4plus.pth, or safetensors)."""
        input_size: int = 64
        """Side in pixels of the originals before they are enlarged four times."""
        prompt: str = "a photo"
        """Drawn where a caption is empty or does not end."""
        upscale_batch: int = 16
        """Images that are enlarged at a time."""

        def __post_init__(self) -> None:
            """Refuse to have nothing to draw."""
            super().__post_init__()
            if not self.prompt.strip():
                raise ConfigError("--prompt: name what is drawn where a caption is empty: a photo")

    def __init__(self, config: Config, device: torch.device) -> None:
        """Load the three models.

        Raises:
            SsgearError: one is not named, not there, or another one.
        """
        import torch

        from ssgear.views.diffusion.caption import load_captioner
        from ssgear.views.diffusion.folders import find_pipeline
        from ssgear.views.diffusion.upscale import load_upscaler

        self.config, self.device = config, device
        self.image_size, self.size = config.input_size, config.size
        self.batch_size = 4 * config.diffusion_batch
        # small models first: what is missing is said before the large one is read
        folder = find_pipeline("--model", config.model, KINDS)
        self.upscaler = load_upscaler(
            config.upscaler,
            option="--upscaler",
            device=device,
            dtype=dtype_of(config.precision, device),
            channels_last=config.channels_last,
        )
        self.captioner = load_captioner(config, device)
        self.diffusion = Diffusion(config, folder, KINDS[0], device)
        side = config.input_size
        self.diffusion.compile(self._call, torch.zeros(3, side, side, dtype=torch.uint8))
        self.notes = self.diffusion.notes
        self.settings = self._settings()
        upscale = Stage(
            name="upscale",
            batch_size=config.upscale_batch,
            work=self._upscale,
            option="--upscale-batch",
            device=device,
        )
        caption = self.captioner.stage(config.caption_batch, self._enlarged, config.prompt)
        # stages remember how much fits in memory
        self.stages = (upscale, caption, self.diffusion.stage(self._call))

    def _settings(self) -> dict[str, Json]:
        config = self.config
        pipeline = self.diffusion.settings(
            input_size=config.input_size,
            fallback=config.prompt,
            caption_tokens=config.caption_tokens,
        )
        return {
            **pipeline,
            "upscaler": self.upscaler.digest,
            "captioner": self.captioner.digest,
            "upscale_batch": config.upscale_batch,
            "caption_batch": config.caption_batch,
        }

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        """Enlarge, describe and draw anew."""
        assert images is not None, "makes views of images"
        rows = [Row(image=image, seed=seed) for image, seed in zip(images, seeds, strict=True)]
        return self.drawn(rows, self.stages)

    def _upscale(self, rows: Sequence[Row]) -> None:
        enlarged, bad = self.upscaler(images_of(rows))
        for row, image, is_bad in zip(rows, enlarged, bad, strict=True):
            row.upscaled = None if is_bad else image
            row.failed = "super-resolution is not finite, in float32 too" if is_bad else None

    def _enlarged(self, rows: Sequence[Row]) -> Tensor:
        import torch

        # a row that failed keeps its place, so that the others keep their neighbours
        empty = torch.zeros(3, *(SCALE * side for side in rows[0].image.shape[1:])).byte()
        return torch.stack([empty if row.upscaled is None else row.upscaled for row in rows])

    def _call(self, pipe: Pipeline, rows: Sequence[Row]) -> Tensor:
        config = self.config
        return pipe(
            [row.prompt for row in rows],
            height=config.size,
            width=config.size,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            negative_prompt=[config.negative_prompt] * len(rows),
            generator=generators(rows),
            output_type="pt",
        ).images
