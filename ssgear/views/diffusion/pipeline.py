"""Stable Diffusion pipelines of diffusers as stages: loading, noise, checks, a second attempt.

    diffusion = Diffusion(config, folder, "StableDiffusionPipeline", device)
    diffusion.draw(rows, call)        # call(pipeline, rows) -> float images [n, 3, H, W] in [0, 1]

Noise comes from one generator on the CPU for each row, by its seed: the same on every machine.
What is not finite or of one colour is drawn once more, by itself, in float32 from the same seed;
if that is no better, the row has failed and says why. Published weights, GPUs and half precision
were never tried here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, cast

from ssgear.errors import CheckpointError, ConfigError, first_line, refusing
from ssgear.views.diffusion.config import SCHEDULERS, UNSEEDED, DiffusionConfig, dtype_of
from ssgear.views.diffusion.folders import IGNORED, INDEX, Folder, check_words, loading, need, quiet
from ssgear.views.diffusion.rows import Row, checked
from ssgear.views.diffusion.stages import Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssgear.views.base import Json
    from ssgear.views.diffusion.library import Pipeline, Scheduler, UNet
    from ssgear.views.diffusion.step_cache import StepCache

Call = Callable[["Pipeline", Sequence[Row]], "Tensor"]
"""Runs a pipeline for some rows: float images [n, 3, H, W] in [0, 1]."""


def _sampler_of(folder: Folder) -> str:
    """Return the class of the scheduler that a folder's index names."""
    match folder.index.get("scheduler"):
        case [_, str(name)]:
            return name
    raise CheckpointError(f"--model: {folder.path / INDEX} names no scheduler; is it complete?")


class Diffusion:
    """A pipeline, and the float32 copy of it that second attempts are made with."""

    def __init__(
        self, config: DiffusionConfig, folder: Folder, kind: str, device: torch.device
    ) -> None:
        """Load the pipeline as the class `kind` of diffusers.

        Raises:
            SsgearError: it cannot be loaded, or does not take the options.
        """
        self.config, self.folder, self.kind, self.device = config, folder, kind, device
        sampler = _sampler_of(folder)
        if config.scheduler == "model" and sampler in UNSEEDED:
            raise ConfigError(
                f"--scheduler: {sampler} of {folder.path} draws noise that no seed decides; use "
                f"one of {', '.join(SCHEDULERS)}"
            )
        self.dtype = dtype_of(config.precision, device)
        self.pipe = self._load(self.dtype)
        unet = cast("UNet", self.pipe.unet)
        self._fit(len(unet.config.block_out_channels))
        self.compiled: dict[str, str] = {}
        self.notes: list[str] = []
        self.cache: StepCache | None = None
        self._exact: Pipeline | None = None
        self._whole = True
        if config.fuse == "on" or (config.fuse == "auto" and device.type == "cuda"):
            self.pipe.fuse_qkv_projections()
        if config.token_merging:
            from ssgear.views.diffusion.token_merging import merge_tokens

            merge_tokens(unet, config.token_merging)
        if config.step_cache > 1:
            from ssgear.views.diffusion.step_cache import StepCache

            self.cache = StepCache(unet, every=config.step_cache)

    def settings(self, **parameters: Json) -> dict[str, Json]:
        """Return what decides pixels: plain JSON, the digest of all files of the model too.

        `parameters` are those of a generator beside the pipeline's.
        """
        config = self.config
        return {
            "model": self.folder.digest(),
            "precision": str(self.dtype).removeprefix("torch."),
            "channels_last": config.channels_last,
            "fused": bool(getattr(self.pipe, "fusing_unet", False)),
            "compile": self.compiled,
            "diffusion_batch": config.diffusion_batch,
            "parameters": {
                "steps": config.steps,
                "guidance": float(config.guidance),
                "scheduler": type(self.pipe.scheduler).__name__,
                "negative_prompt": config.negative_prompt,
                "step_cache": config.step_cache,
                "token_merging": float(config.token_merging),
                **parameters,
            },
        }

    def draw(self, rows: Sequence[Row], call: Call) -> None:
        """Make the pixels of rows; what comes out black or not finite is drawn again, once."""
        if self.cache is not None:
            self.cache.restart()
        for row, made in zip(rows, call(self.pipe, self._filled(rows)), strict=False):
            row.pixels, problem = checked(made)
            if problem is None:
                continue
            row.metadata["first_attempt"] = problem
            row.pixels, again = self._again(row, call)
            if again is not None:
                row.failed = f"{problem}; {again}"

    def _again(self, row: Row, call: Call) -> tuple[Tensor | None, str | None]:
        """Draw a row by itself in float32; return its pixels and what is wrong with them."""
        import torch

        with suppress(torch.OutOfMemoryError):  # smaller slices would meet the same row again
            pixels, problem = checked(call(self._in_float32(), [row])[0])
            return pixels, None if problem is None else f"{problem} in float32 too"
        return None, "no GPU memory to draw it in float32"

    def stage(self, call: Call) -> Stage[Row]:
        """Return the stage that draws."""
        return Stage(
            name="diffusion",
            batch_size=self.config.diffusion_batch,
            work=lambda rows: self.draw(rows, call),
            option="--diffusion-batch",
            when_halved=self._lessen,
        )

    def compile(self, call: Call, image: Tensor) -> None:
        """Compile the slow parts for slices of the size that the options name.

        `image` is uint8 [3, h, w], of the size of the originals.
        """
        mode = "none" if self.config.changes_unet else self.config.compile
        if mode == "none" or (mode == "auto" and self.device.type == "cpu"):
            return
        from ssgear.views.compile.compile import compile_pipeline

        rows = [Row(image=image, seed=0)] * self.config.diffusion_batch
        used = compile_pipeline(
            self.pipe,
            mode=mode,
            device=self.device,
            notice=self.notes.append,
            example=lambda: call(self.pipe, rows),
        )
        self.compiled = {part: how for part, how in used.items() if how != "none"}

    def _lessen(self) -> None:
        self._whole = False  # slices of the size that the options name do not fit in memory

    def _filled(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return as many rows as the compiled parts take, the last one repeated."""
        missing = self.config.diffusion_batch - len(rows)
        fill = self.compiled and self._whole and missing > 0
        return [*rows, *[rows[-1]] * missing] if fill else rows

    def _in_float32(self) -> Pipeline:
        import torch

        if self._exact is None:
            changed = self.config.changes_unet or self.compiled
            plain = self.dtype == torch.float32 and not changed
            self._exact = self.pipe if plain else self._load(torch.float32)
        return self._exact

    def _load(self, dtype: torch.dtype) -> Pipeline:
        import torch

        diffusers = need("diffusers", "--model")
        quiet(diffusers, need("transformers", "--model"))
        options: dict[str, object] = {part: None for part in IGNORED if part in self.folder.index}
        if options:
            options["requires_safety_checker"] = False
        with loading("--model", self.folder.path):
            pipe = getattr(diffusers, self.kind).from_pretrained(
                self.folder.path,
                dtype=dtype,
                variant=self.folder.variant,
                use_safetensors=True,
                local_files_only=True,
                **options,
            )
        if getattr(pipe, "tokenizer", None) is not None:
            check_words("--model", self.folder.path, pipe.tokenizer)
        pipe.scheduler = self._scheduler(diffusers, pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        if self.config.channels_last:
            for part in (pipe.unet, pipe.vae):
                part.to(memory_format=torch.channels_last)
        pipeline: Pipeline = pipe.to(self.device)
        return pipeline

    def _scheduler(self, diffusers: ModuleType, published: Scheduler) -> Scheduler:
        name = self.config.scheduler
        if name == "model":
            return published
        # PNDM's first steps, of Runge-Kutta, are left out by Stable Diffusion's own settings
        own = {"skip_prk_steps": True} if name == "pndm" else {}
        scheduler: Scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(
            published.config, **own
        )
        return scheduler

    def _fit(self, levels: int) -> None:
        """Refuse a size that the model cannot make, and steps that its sampler cannot take.

        `levels` are those of the UNet, each of half the side of the one before.
        """
        config, factor = self.config, self.pipe.vae_scale_factor
        step = math.lcm(8, factor * (2 ** (levels - 1) if config.step_cache > 1 else 1))
        if config.size % step:
            raise ConfigError(f"--size: {config.size}: use a multiple of {step} for this model")
        sampler = type(self.pipe.scheduler).__name__
        with refusing(
            (ValueError, IndexError, ZeroDivisionError),
            lambda error: ConfigError(
                f"--steps: {config.steps} cannot be taken by {sampler}: {first_line(error)}"
            ),
        ):
            self.pipe.scheduler.set_timesteps(config.steps)
