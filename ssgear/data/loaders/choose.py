"""From a source to batches: `build_loader` picks an engine (data/loaders/base.py) and says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.augment import AugmentSpec
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders import dali_check, dali_pipeline
from ssgear.data.loaders.base import SMALL_SIDE, Loader, ViewPlan
from ssgear.data.loaders.dali import DaliLoader
from ssgear.data.loaders.resident import ResidentLoader
from ssgear.data.loaders.workers import TorchLoader
from ssgear.data.order.missing import LostImages
from ssgear.data.order.sampler import Sampler
from ssgear.data.order.stored_views import StoredViews
from ssgear.data.order.synthetic import joined
from ssgear.data.sources import BadFile, Source, decode_all, scan
from ssgear.errors import ConfigError


def view_size(config: DataConfig, source: Source) -> int:
    """Return the side of a training view.

    As asked for, else the images' own if they are small, else 224.
    """
    if config.size is not None:
        return config.size
    return source.native_size if source.native_size and source.native_size <= SMALL_SIDE else 224


def augmentation(config: DataConfig, size: int) -> tuple[AugmentSpec, ...]:
    """Return the named set of views, with its smallest crop where one is given.

    `auto` is simclr-cifar for views up to 64 pixels, else simclr. Where views differ in their crops
    (multi-crop), all bounds below the whole image grow or shrink alike.
    """
    name = config.augmentation
    if name == "auto":
        name = "simclr-cifar" if size <= 64 else "simclr"
    views, smallest = view_set(name), config.min_scale
    if smallest is None:
        return views
    scales = [spec.crop_scale for spec in views if spec.crop_scale is not None]
    if len(scales) < len(views):
        raise ConfigError(f"--data.min-scale: the augmentation {name} does not crop; leave it out")
    lowest = min(low for low, _ in scales)

    def grown(bound: float) -> float:
        return bound if bound == 1 else min(bound / lowest * smallest, 1.0)

    return tuple(
        replace(spec, crop_scale=(grown(low), grown(high)))
        for spec, (low, high) in zip(views, scales, strict=True)
    )


class Loaded(NamedTuple):
    """An engine, and the images of each kind that can be read."""

    loader: Loader
    source: Source
    """Real images."""
    synthetic: Source | None
    stored: StoredViews | None
    why: str
    """Why this engine, in words."""


def build_loader(
    config: DataConfig,
    source: Source,
    sampler_for: Callable[[int, int], Sampler],
    plan: ViewPlan,
    synthetic: Source | None = None,
    stored: StoredViews | None = None,
    lost: Sequence[BadFile] = (),
) -> Loaded:
    """Decode or scan what there is and build the engine.

    `sampler_for` gets the numbers of real and of synthetic images. `lost` are files that the
    resumed run has lost already.
    """
    engine, why = choose_engine(config, source, synthetic, stored, plan.specs, plan.device)
    if engine == "dali":
        dali_pipeline.require(plan.device)
    tensor, source = _read(engine, source, config, lost)
    everything = source
    if synthetic is not None:
        more, synthetic = _read(engine, synthetic, config, lost)
        tensor, everything = torch.cat([tensor, more]), joined(everything, synthetic)
    sampler = sampler_for(len(source), len(synthetic or ()))
    if stored is not None:
        more, views = _read(engine, stored.source, config, lost)
        stored = replace(stored, source=views)
        mix = stored.mix(source, first_row=len(everything), num_views=len(plan.specs))
        sampler, stored = replace(sampler, views=mix), stored.noted(mix)
        tensor, everything = torch.cat([tensor, more]), joined(everything, views)
    loader: Loader
    if engine == "resident":
        loader = ResidentLoader(tensor, everything.labels, sampler, plan)
    else:
        gone = LostImages(everything, config.max_bad_share, lost)
        kind = DaliLoader if engine == "dali" else TorchLoader
        loader = kind(gone, tensor, sampler, plan, config.workers)
    return Loaded(loader, source, synthetic, stored, why)


def _read(
    engine: str, source: Source, config: DataConfig, lost: Sequence[BadFile]
) -> tuple[Tensor, Source]:
    """Return what an engine keeps of the images that can be read (pixels, or sizes), and these."""
    if engine == "resident":
        return decode_all(source, config)
    good, sizes = scan(source, config, lost=lost)
    return sizes, good


def choose_engine(
    config: DataConfig,
    source: Source,
    synthetic: Source | None = None,
    stored: StoredViews | None = None,
    specs: Sequence[AugmentSpec] = (),
    device: torch.device | None = None,
) -> tuple[str, str]:
    """Return the engine for a source and what is shown beside it, and the reason in words.

    `specs` are those of the views: not every engine can carry out all of them.
    """
    if any(spec.policy is not None for spec in specs):
        if config.loader not in ("auto", "torch"):
            raise ConfigError(
                f"--data.loader: {config.loader} has no AutoAugment; use --data.loader torch or "
                "auto"
            )
        return "torch", "its workers carry out AutoAugment's policy"
    side, count = source.native_size, len(source)
    reason = "the images have different sizes"
    if synthetic is not None:
        side = side if synthetic.native_size == side else None
        count += len(synthetic)
    if stored is not None and side is not None:
        side = side if stored.source.native_size == side else None
        count += len(stored.source)
        reason = reason if side else "the stored views have another size than the images"
    if side is None:
        fits = False
    else:
        megabytes = 3 * side * side * count / 1e6
        fits = side <= SMALL_SIDE and megabytes <= config.resident_limit_mb
        reason = f"{count} images of {side} px are {megabytes:.0f} MB decoded"
    if config.loader == "auto" and fits:
        return "resident", reason
    on_gpu = device is not None and device.type == "cuda"
    if config.loader == "auto" and not on_gpu:
        return "torch", reason
    if config.loader == "resident" and side is None:
        raise ConfigError(
            "--data.loader: resident needs images of one square size; "
            "use --data.loader torch, or resize them first"
        )
    asked = "asked for by --data.loader"
    if config.loader in ("resident", "torch") or device is None or not on_gpu:
        return config.loader, asked
    # on a GPU: what keeps DALI from feeding it, or what is wrong with its crops there
    problem = dali_pipeline.why_not(device)
    problem = problem or dali_check.fault(source, specs, view_size(config, source), device)
    if config.loader == "dali":
        return "dali", f"{asked}, though {problem}" if problem else asked
    if problem:
        return "torch", f"{reason}; {problem}"
    return "dali", f"{reason}; the GPU decodes them"
