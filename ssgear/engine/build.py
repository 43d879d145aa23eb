"""From settings to a run that is ready to start: `prepare` lists the parts in order.

Whatever can be wrong is found here, cheapest first, before any directory is made or image decoded
more than needed: settings, ds.json, directory, data, model. Each part takes what it needs and
returns a frozen result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import timm.layers
import torch

from ssgear import distributed, registry
from ssgear.config import cli
from ssgear.config import deepspeed as ds_json
from ssgear.config.files import read_object
from ssgear.config.schema import Config
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders import choose, dali_pipeline
from ssgear.data.loaders.base import SMALL_SIDE, Loader, ViewPlan
from ssgear.data.order.sampler import Sampler
from ssgear.data.order.stored_views import StoredViews, open_stored
from ssgear.data.order.synthetic import open_synthetic
from ssgear.data.sources import BadFile, Source, check_source, open_source, scan
from ssgear.distributed import World
from ssgear.engine.allocator import keep_freed_memory
from ssgear.engine.checks import (
    check_counts,
    check_ranks,
    check_rows,
    check_sides,
    check_slices,
    check_stores,
)
from ssgear.engine.deepspeed_runtime import DeepSpeedRuntime, import_deepspeed
from ssgear.engine.directory import choose_directory, open_log
from ssgear.engine.notes import tell_user
from ssgear.engine.run import Run
from ssgear.engine.runtime import Runtime, TorchRuntime
from ssgear.engine.saving import read_saved
from ssgear.errors import ConfigError, DataError, refusing_lack
from ssgear.kernels import philox
from ssgear.methods.base import Facts, Method
from ssgear.models.encoders import build_encoder
from ssgear.models.encoders.networks import check_model
from ssgear.storage.checkpoint import find_latest


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run computes."""

    device: torch.device
    world: World


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that the settings name, opened and not yet decoded."""

    train: Source
    synthetic: Source | None
    """Synthetic images that join them."""
    lost: Sequence[BadFile]
    """Files that a resumed run had lost before."""
    views: tuple[AugmentSpec, ...]
    """The set of views that `--data.augmentation` names."""
    size: int
    """Side of a view in pixels."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the method's pretext made of the images, or the images themselves."""

    source: Source
    """Images to train on."""
    original: Source | None
    """The images that `source` was made of, where they are others."""
    facts: Facts
    """What the method may know; the pretext among it."""

    def select(self, source: Source) -> Source:
        """Return the images, of test say, that the method is about."""
        pretext = self.facts.pretext
        return source if pretext is None else pretext.select(source)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The loader, and the images of each kind that can be read."""

    loader: Loader
    plan: ViewPlan
    source: Source
    """Images that are trained on."""
    synthetic: Source | None
    stored: StoredViews | None
    test: Source | None
    reason: str
    """Why this loader."""


def prepare(launch: cli.Launch) -> Run:
    """Build a run from what the command line asked for; every rank calls it."""
    saved = None if launch.resume is None else read_saved(find_latest(launch.resume))
    machine = open_machine(launch.config)
    ds = read_deepspeed(launch, machine)
    settings = launch.config if ds is None else ds.config
    directory = choose_directory(settings, launch.resume, machine.world)
    config = dataclasses.replace(settings, output=directory)
    images = open_images(config, () if saved is None else saved.lost)
    task = build_task(config, images)
    method = build_method(config, task.facts, machine)
    feed = build_loader(config, images, task, method, machine)
    runtime = build_runtime(config, method, machine, ds)
    total_steps = feed.loader.sampler.steps_per_epoch * config.optim.epochs
    resumed_at = None if saved is None else saved.step
    log = open_log(config, directory, machine.world, total_steps, resumed_at)
    run = Run(
        config=config,
        directory=directory,
        world=machine.world,
        device=machine.device,
        method=method,
        source=feed.source,
        original=task.original,
        synthetic=feed.synthetic,
        stored=feed.stored,
        test=feed.test,
        loader=feed.loader,
        plan=feed.plan,
        runtime=runtime,
        log=log,
        total_steps=total_steps,
        resumed=saved is not None,
    )
    tell_user(run, feed.reason, () if ds is None else ds.notes)
    return run


def resolve(launch: cli.Launch) -> Config:
    """Return the settings that `prepare` would run with, without building or writing anything.

    The names of models, augmentations and sources are checked, and ds.json with all that it says.
    """
    machine = Machine(device=_device_of(launch.config), world=distributed.world_from_environment())
    ds = read_deepspeed(launch, machine)
    config = launch.config if ds is None else ds.config
    check_model(config.model.name)
    check_source(config.data.source)
    if config.data.loader == "dali":
        dali_pipeline.require(machine.device)
    choose.augmentation(config.data, config.data.size or SMALL_SIDE)
    return config


def open_machine(config: Config) -> Machine:
    """Join the other ranks, and set up this process as the settings say."""
    check_counts(config)
    device = _device_of(config)
    world = distributed.initialise(device, config.engine.timeout_s)
    cores = distributed.usable_cores() // world.local_size
    torch.set_num_threads(config.engine.threads or max(1, cores))
    if device.type == "cpu" and config.engine.keep_memory:
        keep_freed_memory()
    if config.engine.deterministic:
        torch.use_deterministic_algorithms(True)
    return Machine(device=device, world=world)


def _device_of(config: Config) -> torch.device:
    return distributed.choose_device(config.engine.device, "--engine.device")


def read_deepspeed(launch: cli.Launch, machine: Machine) -> ds_json.ResolvedDeepSpeed | None:
    """Return what --deepspeed comes to in this run; None without it."""
    config = launch.config
    needs = method_of(config).needs(config.method)
    check_slices(config, needs)
    if config.deepspeed is None:
        return None
    resolved = ds_json.resolve(
        read_object(config.deepspeed, "--deepspeed"),
        config,
        launch.given,
        world=machine.world.size,
        device="cuda" if machine.device.type == "cuda" else "cpu",
        where=str(config.deepspeed),
        has_penalty=needs.second_derivatives,
        cacheable=not needs.whole_batch,
        ema=config.optim.ema > 0,
        follower=needs.whole_weights,
    )
    import_deepspeed()
    return resolved


def open_images(config: Config, lost: Sequence[BadFile] = ()) -> ImageSet:
    """Open the training images and what joins them; `lost` are files that a resumed run lost."""
    train = open_source(config.data, "train", lost)
    synthetic = open_synthetic(config.data, train)
    size = choose.view_size(config.data, train)
    return ImageSet(
        train=train,
        synthetic=synthetic,
        lost=lost,
        views=choose.augmentation(config.data, size),
        size=size,
    )


def method_of(config: Config) -> type[Method]:
    """Import the method that the settings name."""
    method: type[Method] = registry.load("methods", config.method_name)
    return method


def build_task(config: Config, images: ImageSet) -> Task:
    """Let the method's pretext, if it has one, choose the images and make its own of them."""
    check_model(config.model.name)
    facts = Facts(
        augmentation=images.views,
        num_images=len(images.train),
        num_classes=_num_classes(images.train),
        size=images.size,
        seed=config.seed,
        epochs=config.optim.epochs,
        batch_size=config.optim.batch_size,
    )
    method, train, source = method_of(config), images.train, images.train
    pretext = method.build_pretext(config.method)
    if pretext is not None:
        if pretext.reads_images:
            train, _ = scan(train, config.data, lost=images.lost)
        train = pretext.select(train)
        source = pretext.wrap_source(train, facts)
    made = source is not train
    check_stores(config, method.needs(config.method), makes_images=made)
    return Task(
        source=source,
        original=train if made else None,
        facts=dataclasses.replace(
            facts, num_images=len(source), num_classes=_num_classes(source), pretext=pretext
        ),
    )


def build_method(config: Config, facts: Facts, machine: Machine) -> Method:
    """Build encoder and method; initial weights depend on (seed, part) alone."""
    torch.manual_seed(config.seed)
    encoder = build_encoder(config.model, facts.size, seed=config.seed)
    too_large = ConfigError(
        f"--method: {config.method_name} with these sizes (widths, prototypes, queue, classes) "
        "does not fit into memory; use smaller --method.* settings"
    )
    with refusing_lack(lambda _: too_large):
        method = method_of(config).build(config.method, encoder, facts)
    if machine.world.size > 1 and machine.device.type == "cuda":
        for name, child in method.named_children():
            # torch's own conversion drops the activations of timm's fused norm layers
            convert: Any = cast(Any, timm.layers).convert_sync_batchnorm
            setattr(method, name, convert(child))
    method.to(machine.device)
    if config.engine.channels_last and config.deepspeed is None:
        # DeepSpeed broadcasts weights as flat bytes; there only the images are channels-last
        method.to(memory_format=torch.channels_last)
    if config.engine.compile:
        for group in method.groups:
            for module in group.compiled:
                module.compile()
    return method


def _num_classes(source: Source) -> int | None:
    if source.labels is None or not len(source.labels):
        return None
    return len(source.classes) if source.classes else int(source.labels.max()) + 1


def build_loader(
    config: Config, images: ImageSet, task: Task, method: Method, machine: Machine
) -> Feed:
    """Decode or scan the images that the method trains on, and build the engine."""
    stored = open_stored(config.views, task.source)
    test = _open_test(config, images.lost)
    plan = ViewPlan(
        specs=method.view_specs(images.views),
        size=images.size,
        seed=config.seed,
        device=machine.device,
        channels_last=config.engine.channels_last,
        needs_images=method.needs(config.method).images,
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
            rank=machine.world.rank,
            world_size=machine.world.size,
        )

    loaded = choose.build_loader(
        config.data, task.source, sampler_for, plan, images.synthetic, stored, images.lost
    )
    check_ranks(machine.world, loaded.loader.name, loaded.loader.sampler, loaded.source)
    return Feed(
        loader=loaded.loader,
        plan=plan,
        source=loaded.source,
        synthetic=loaded.synthetic,
        stored=loaded.stored,
        test=None if test is None else task.select(test),
        reason=loaded.why,
    )


def _open_test(config: Config, lost: Sequence[BadFile]) -> Source | None:
    """Open and check the test images now: a mistake in them must not end a run hours later."""
    has_own = config.data.test_share != 0 or config.data.test_path is not None
    try:
        return scan(open_source(config.data, "test", lost), config.data)[0]
    except DataError:
        if has_own:
            raise
        return None  # no split of its own, and none was asked for


def build_runtime(
    config: Config, method: Method, machine: Machine, ds: ds_json.ResolvedDeepSpeed | None
) -> Runtime:
    """Build the runtime that --deepspeed decides on, and seed what this rank draws in training."""
    world, bf16 = machine.world, config.engine.precision == "bf16"
    check_rows(method, config, world)
    runtime: Runtime
    if ds is None:
        runtime = TorchRuntime(method, config.optim, world, bf16=bf16)
    else:
        runtime = DeepSpeedRuntime(method, config.optim, world, bf16=bf16, resolved=ds)
    torch.manual_seed(philox.derive_key(config.seed, "train", world.rank) % 2**63)
    return runtime
