"""Generators without a model that fail and die on request, named by their import path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.stand_in import StandIn
from ssgear.errors import ConfigError
from ssgear.views.base import Shared, Study, Views


class Quick(StandIn):
    """Small images at once."""

    @dataclass(frozen=True, kw_only=True)
    class Config(StandIn.Config):
        side: int = 12
        source_side: int | None = None
        seconds: float = 0.0
        flavour: str = "plain"
        """A setting that decides pixels."""
        fail_every: int = 0
        """Every so many seeds one fails."""
        upscale: bool = False
        """Keep sources, enlarged."""
        die_once: Path | None = None
        """Kill this process when the file is not there, having written it."""
        die_at: str | None = None
        """Kill this process whenever this id is asked for."""
        pause_at: str | None = None
        """ID@SECONDS: take that long whenever this id is asked for."""
        raise_at: str | None = None
        """Raise an error whenever this id is asked for."""

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        if config.flavour == "none":
            raise ConfigError("--flavour: none is not possible; use plain")
        self.config, self.batch_size = config, 4
        self.settings = {**self.settings, "unet": {"flavour": config.flavour}}
        self.notes = ("the stand-in is built",)

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        self._perish(ids)
        made = super().generate(images, ids, seeds)
        every = self.config.fail_every
        failed = (
            [f"seed {s % every} of {every}" if s % every == 0 else None for s in seeds]
            if every
            else ()
        )
        upscaled: list[Tensor | None] = []
        if self.config.upscale and images is not None:
            upscaled = [image.repeat_interleave(2, 1).repeat_interleave(3, 2) for image in images]
        notes = ("a batch was made",)
        return Views(
            images=made.images, metadata=made.metadata, failed=failed, upscaled=upscaled,
            seconds=made.seconds, notes=notes,
        )  # fmt: skip

    def _perish(self, ids: Sequence[str]) -> None:
        pause = self.config.pause_at
        if pause is not None and pause.split("@")[0] in ids:
            time.sleep(float(pause.split("@")[1]))
        once = self.config.die_once
        if once is not None and not once.exists():
            once.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.die_at in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.raise_at in ids:
            raise TypeError(f"{self.config.raise_at} is odd")


class Describing(Quick):
    """Has a text of each image, which it finds once for all its views."""

    shares = ("text",)

    def generate(self, images: Tensor | None, ids: Sequence[str], seeds: Sequence[int]) -> Views:
        assert images is not None
        return self._told(super().generate(images, ids, seeds), self.study(images).rows)

    def study(self, images: Tensor) -> Study:
        rows = [Shared(metadata={"text": str(int(image.sum()))}) for image in images]
        return Study(rows=rows, seconds={"text": 0.0})

    def more(
        self, images: Tensor, shared: Sequence[Shared], ids: Sequence[str], seeds: Sequence[int]
    ) -> Views:
        return self._told(super().generate(images, ids, seeds), shared)

    def _told(self, made: Views, shared: Sequence[Shared]) -> Views:
        rows = zip(made.metadata, shared, strict=True)
        return replace(made, metadata=[{**about, **each.metadata} for about, each in rows])
