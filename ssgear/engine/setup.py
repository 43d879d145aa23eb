"""From settings to a run that is ready to start.

Whatever can be wrong is found here, cheapest first, before any directory is made or image decoded
more than needed: settings, ds.json, directory, data, model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm.layers
import torch

from ssgear import distributed, registry
from ssgear.config import cli
from ssgear.config import deepspeed as ds_json
from ssgear.config.schema import Config
from ssgear.data.loaders import dali_pipeline
from ssgear.data.loaders.base import SMALL_SIDE, ViewPlan
from ssgear.data.loaders.choose import augmentation, build_loader, view_size
from ssgear.data.order.sampler import Sampler
from ssgear.data.order.stored_views import open_stored
from ssgear.data.order.synthetic import open_synthetic
from ssgear.data.sources import BadFile, Source, check_source, open_source, scan
from ssgear.distributed import World
from ssgear.engine.allocator import keep_freed_memory
from ssgear.engine.callbacks import Run
from ssgear.engine.checks import (
    as_trained,
    check_counts,
    check_ranks,
    check_rows,
    check_sides,
    has_batch_norm,
)
from ssgear.engine.deepspeed_runtime import DeepSpeedRuntime, import_deepspeed
from ssgear.engine.directory import claim, open_log, refuse_changes
from ssgear.engine.runtime import Runtime, TorchRuntime
from ssgear.engine.saving import lost_files
from ssgear.errors import ConfigError, DataError, lacking_memory
from ssgear.kernels import philox
from ssgear.methods.base import Facts, Method
from ssgear.models.encoders import build_encoder
from ssgear.models.encoders.networks import check_model
from ssgear.storage.checkpoint import find_latest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run computes."""

    device: torch.device
    world: World


def prepare(launch: cli.Launch) -> Run:
    """Build a run from what the command line asked for; every rank calls it."""
    config = launch.config
    if launch.resume is not None:
        read_manifest(find_latest(launch.resume))  # nothing there, or damaged: refused first
    check_counts(config)
    device = pick_device(config)
    world = distributed.initialise(device, config.engine.timeout_s)
    cores = distributed.usable_cores() // world.local_size
    torch.set_num_threads(config.engine.threads or max(1, cores))
    if device.type == "cpu" and config.engine.keep_memory:
        keep_freed_memory()
    config, ds = _with_deepspeed(config, launch.given, world, device)
    if launch.resume is not None:
        refuse_changes(config, launch.resume)
    if config.engine.deterministic:
        torch.use_deterministic_algorithms(True)
    directory = launch.resume or claim(config, world)
    config = dataclasses.replace(config, output=directory)
    return _build(config, directory, Machine(device=device, world=world), ds, launch)


def resolve(launch: cli.Launch) -> Config:
    """Return the settings that `prepare` would run with, without building or writing anything.

    The names of models, augmentations and sources are checked, and ds.json with all that it says.
    """
    world = distributed.world_from_environment()
    config, _ = _with_deepspeed(launch.config, launch.given, world, pick_device(launch.config))
    check_model(config.model.name)
    check_source(config.data.source)
    if config.data.loader == "dali":
        dali_pipeline.require(pick_device(config))
    augmentation(config.data, config.data.size or SMALL_SIDE)
    return config


def _build(
    config: Config,
    directory: Path,
    machine: Machine,
    ds: ds_json.ResolvedDeepSpeed | None,
    launch: cli.Launch,
) -> Run:
    world, device = machine.world, machine.device
    lost = lost_files(find_latest(launch.resume)) if launch.resume else []
    source = open_source(config.data, "train", lost)
    synthetic = open_synthetic(config.data, source)
    size = view_size(config.data, source)
    views = augmentation(config.data, size)
    facts = Facts(
        augmentation=views,
        num_images=len(source),
        num_classes=_num_classes(source),
        epochs=config.optim.epochs,
        batch_size=config.optim.batch_size,
    )
    method = build_method(config, size, device, world, facts)
    if method.reads_images:
        source, _ = scan(source, config.data, lost=lost)
    source = method.select(config.method, source)
    wrapped = as_trained(method, source, synthetic, config.views)
    original, source = (None if wrapped is source else source), wrapped
    stored = open_stored(config.views, source)
    test = _test_source(config, lost)
    test = None if test is None else method.select(config.method, test)
    plan = ViewPlan(
        specs=method.view_specs(views),
        size=size,
        seed=config.seed,
        device=device,
        channels_last=config.engine.channels_last,
        needs_images=method.needs_images,
    )
    check_sides(method, plan)

    if stored is not None:
        stored.check_views(len(plan.specs))

    def sampler_for(num_images: int, num_synthetic: int) -> Sampler:
        return Sampler(
            num_images=num_images,
            num_synthetic=num_synthetic,
            synthetic_ratio=config.data.synthetic_share,
            batch_size=config.optim.batch_size,
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
        )

    loader, source, synthetic, stored, why = build_loader(
        config.data, source, sampler_for, plan, synthetic, stored, lost
    )
    check_ranks(world, loader.name, loader.sampler, source)
    total = loader.sampler.steps_per_epoch * config.optim.epochs
    check_rows(method, config, world)
    runtime = build_runtime(method, config, world, ds)
    torch.manual_seed(philox.derive_key(config.seed, "train", world.rank) % 2**63)
    log = open_log(config, directory, world, launch, total)
    run = Run(
        config=config,
        directory=directory,
        world=world,
        device=device,
        method=method,
        source=source,
        original=original,
        synthetic=synthetic,
        stored=stored,
        test=test,
        loader=loader,
        plan=plan,
        runtime=runtime,
        log=log,
        total_steps=total,
        resumed=launch.resume is not None,
    )
    _tell(run, f"{loader.name} loader: {why}", ds)
    return run


def _test_source(config: Config, lost: Sequence[BadFile]) -> Source | None:
    """Open and check the test images now: a mistake in them must not end a run hours later."""
    if config.data.test_share == 0 and config.data.test_path is None:
        try:
            return scan(open_source(config.data, "test", lost), config.data)[0]
        except DataError:
            return None  # no split of its own, and none was asked for
    return scan(open_source(config.data, "test", lost), config.data)[0]


def _tell(run: Run, loader: str, ds: ds_json.ResolvedDeepSpeed | None) -> None:
    """Say once what a user should know about this run."""
    config, world = run.config, run.world
    run.log.say(loader)
    for source in (*run.sources, *([run.test] if run.test else [])):
        for note in source.notes:
            run.log.say(note)
        for bad in source.bad:
            run.log.note(run.step, f"skipped {bad.where}: {bad.reason}")
    known = len(run.loader.lost.reasons) if run.loader.lost else 0
    if known:
        run.log.say(f"{known} images were lost before this step; others stand in for them")
    for note in ds.notes if ds else ():
        run.log.note(run.step, note)
    share = config.data.synthetic_share * config.optim.batch_size
    if run.synthetic is not None and share > len(run.synthetic):
        run.log.note(
            run.step,
            f"{len(run.synthetic)} synthetic images are fewer than the {share:g} of a batch: it "
            "holds copies of an image, which a contrastive loss takes for different ones",
        )
    if config.optim.warmup_epochs >= config.optim.epochs:
        run.log.note(
            run.step,
            f"--optim.warmup-epochs {config.optim.warmup_epochs:g} spans all --optim.epochs "
            f"{config.optim.epochs}: the learning rate never reaches --optim.lr",
        )
    norms = has_batch_norm(run.method)
    if norms and world.size > 1 and run.device.type == "cpu":
        run.log.note(
            run.step,
            "PyTorch has no synchronised batch norm on CPUs: every rank keeps its own statistics "
            "(--model.norm group has none)",
        )
    micro = config.optim.micro_batch
    if norms and micro and micro < config.optim.batch_size // world.size:
        run.log.note(
            run.step,
            f"gradient caching: batch norm sees {micro} images at a time, not the whole batch",
        )


def pick_device(config: Config) -> torch.device:
    """Return this rank's device, or say that there is no GPU."""
    return distributed.choose_device(config.engine.device, "--engine.device")


def _with_deepspeed(
    config: Config, given: frozenset[str], world: World, device: torch.device
) -> tuple[Config, ds_json.ResolvedDeepSpeed | None]:
    method = registry.load("methods", config.method_name)
    if config.optim.micro_batch is not None and not method.cacheable:
        raise ConfigError(
            f"--optim.micro-batch: {config.method_name} needs its batch whole, since its losses "
            "are not of embeddings alone, or of their statistics over the batch; leave it away, or "
            "use a smaller --optim.batch-size"
        )
    if config.deepspeed is None:
        return config, None
    resolved = ds_json.resolve(
        ds_json.read(config.deepspeed),
        config,
        given,
        world=world.size,
        device="cuda" if device.type == "cuda" else "cpu",
        where=str(config.deepspeed),
        has_penalty=method.penalises(config.method),
        cacheable=method.cacheable,
        ema=config.optim.ema > 0,
        follower=method.follower(config.method),
    )
    import_deepspeed()
    return resolved.config, resolved


def _num_classes(source: Source) -> int | None:
    if source.labels is None or not len(source.labels):
        return None
    return len(source.classes) if source.classes else int(source.labels.max()) + 1


def build_method(
    config: Config, size: int, device: torch.device, world: World, facts: Facts
) -> Method:
    """Build encoder and method; initial weights depend on (seed, part) alone."""
    torch.manual_seed(config.seed)
    encoder = build_encoder(config.model, size, seed=config.seed)
    loaded: Any = registry.load("methods", config.method_name)
    with _room_for(config.method_name):
        method: Method = loaded.build(config.method, encoder, facts)
    if world.size > 1 and device.type == "cuda":
        for name, child in method.named_children():
            # torch's own conversion drops the activations of timm's fused norm layers
            convert: Any = cast(Any, timm.layers).convert_sync_batchnorm
            setattr(method, name, convert(child))
    method.to(device)
    if config.engine.channels_last and config.deepspeed is None:
        # DeepSpeed broadcasts weights as flat bytes; there only the images are channels-last
        method.to(memory_format=torch.channels_last)
    if config.engine.compile:
        for module in method.compiled():
            module.compile()
    return method


@contextmanager
def _room_for(method: str) -> Iterator[None]:
    """Refuse settings whose weights or queues are larger than the memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if lacking_memory(error) is None:
            raise
        raise ConfigError(
            f"--method: {method} with these sizes (widths, prototypes, queue, classes) does not "
            "fit into memory; use smaller --method.* settings"
        ) from None


def build_runtime(
    method: Method, config: Config, world: World, ds: ds_json.ResolvedDeepSpeed | None
) -> Runtime:
    """Build the runtime that --deepspeed decides on."""
    bf16 = config.engine.precision == "bf16"
    if ds is None:
        return TorchRuntime(method, config.optim, world, bf16=bf16)
    return DeepSpeedRuntime(method, config.optim, world, bf16=bf16, resolved=ds)
