"""From settings to a run that is ready to start.

Whatever can be wrong is found here, cheapest first, before any directory is made or image decoded
more than needed: settings, ds.json, directory, data, model.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import timm.layers
import torch
from torch import nn

from ssgear import distributed, registry
from ssgear.config import cli
from ssgear.config import deepspeed as ds_json
from ssgear.config.schema import Config, ViewsConfig
from ssgear.data import dali_pipeline
from ssgear.data.loading import (
    SMALL_SIDE,
    ViewPlan,
    augmentation,
    build_loader,
    view_size,
)
from ssgear.data.sampler import Sampler
from ssgear.data.sources import BadFile, Source, check_source, open_source, scan
from ssgear.data.stored_views import open_stored
from ssgear.data.synthetic import open_synthetic
from ssgear.distributed import World
from ssgear.engine.callbacks import Run
from ssgear.engine.deepspeed_runtime import DeepSpeedRuntime, import_deepspeed
from ssgear.engine.grad_cache import even_slices
from ssgear.engine.log import Log, cut_metrics
from ssgear.engine.runtime import Runtime, TorchRuntime
from ssgear.engine.saving import lost_files
from ssgear.errors import CheckpointError, ConfigError, DataError, SsgearError
from ssgear.kernels import philox
from ssgear.methods.base import Facts, Method
from ssgear.models.encoders import build_encoder
from ssgear.models.networks import check_model
from ssgear.storage.atomic import write_json
from ssgear.storage.checkpoint import find_latest, read_manifest
from ssgear.storage.lock import hold

MARKS = ("config.json", "metrics.jsonl", "checkpoints")


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
    device = pick_device(config)
    world = distributed.initialise(device, config.engine.timeout_s)
    cores = distributed.usable_cores() // world.local_size
    torch.set_num_threads(config.engine.threads or max(1, cores))
    config, ds = _with_deepspeed(config, launch.given, world, device)
    if launch.resume is not None:
        refuse_changes(config, launch.resume)
    if config.engine.deterministic:
        torch.use_deterministic_algorithms(True)
    directory = launch.resume or _claim(config, world)
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
    source = method.select(source)
    wrapped = _wrapped(method, source, synthetic, config.views)
    original, source = (None if wrapped is source else source), wrapped
    stored = open_stored(config.views, source)
    test = _test_source(config, lost)
    test = None if test is None else method.select(test)
    plan = ViewPlan(
        specs=method.view_specs(views),
        size=size,
        seed=config.seed,
        device=device,
        channels_last=config.engine.channels_last,
        needs_images=method.needs_images,
    )
    _check_sides(method, plan)

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
    _check_ranks(world, loader.name, loader.sampler, source)
    total = loader.sampler.steps_per_epoch * config.optim.epochs
    _check_rows(method, config, world)
    runtime = build_runtime(method, config, world, ds)
    torch.manual_seed(philox.derive_key(config.seed, "train", world.rank) % 2**63)
    log = _open_log(config, directory, world, launch, total)
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


def _wrapped(
    method: Method, source: Source, synthetic: Source | None, views: ViewsConfig
) -> Source:
    """Return the images as the method wants them; refuse stores where they cannot join.

    A method that makes a set of its own of the images cannot have others in it, and one that asks
    for whole images trains a generator, which learns from real ones alone (MATH.md 2): it may show
    stored views, as they are no whole images.
    """
    wrapped = method.wrap_source(source)
    if synthetic is not None and (wrapped is not source or method.needs_images):
        raise ConfigError(
            "--data.synthetic: this method takes real images only; leave it away, or pretrain by a "
            "method that sees views alone, such as simclr"
        )
    if views.store is not None and wrapped is not source:
        raise ConfigError(
            "--views.store: this method makes its own images of the data, which no stored view is "
            "of; leave it away, or use a method that trains on the images themselves"
        )
    return wrapped


@torch.no_grad()
def _check_sides(method: Method, plan: ViewPlan) -> None:
    """Refuse views of several sizes where the encoder takes one size only."""
    if type(method).seen is not Method.seen:
        return  # it is shown what the method makes of the views
    network = method.encoder.network
    training = network.training
    network.eval()
    for side in sorted({*plan.sides} - {plan.size}):
        try:
            network(torch.zeros(1, 3, side, side, device=plan.device))
        except (AssertionError, RuntimeError):  # networks of one size; maps smaller than a kernel
            raise ConfigError(
                f"--data.augmentation: makes views of {side} pixels too, and "
                f"{method.encoder.name} cannot take them; use a set of one size such as simclr, "
                "or a ResNet"
            ) from None
    network.train(training)


def _test_source(config: Config, lost: Sequence[BadFile]) -> Source | None:
    """Open and check the test images now: a mistake in them must not end a run hours later."""
    if config.data.test_share == 0 and config.data.test_path is None:
        try:
            return scan(open_source(config.data, "test", lost), config.data)[0]
        except DataError:
            return None  # no split of its own, and none was asked for
    return scan(open_source(config.data, "test", lost), config.data)[0]


def _check_ranks(world: World, engine: str, sampler: Sampler, source: Source) -> None:
    """Refuse ranks that can read other images, or take another engine: rows would be mixed up."""
    seen = f"{engine} {sampler.num_images} {sampler.num_synthetic}".encode()
    digest = hashlib.blake2b(seen + source.index.numpy().tobytes(), digest_size=7).digest()
    number = int.from_bytes(digest, "little")
    if world.max_number(number) != -world.max_number(-number):
        raise DataError(
            f"rank {world.rank} reads {len(source)} images by the {engine} loader, another rank "
            "does not read the same: give every rank the same files, and name the engine by "
            "--data.loader"
        )


def _check_rows(method: Method, config: Config, world: World) -> None:
    """Refuse a batch norm over single images, which PyTorch cannot compute in training."""
    share = config.optim.batch_size // world.size
    slices = even_slices(share, min(config.optim.micro_batch or share, share))
    if min(part.stop - part.start for part in slices) > 1 or not has_batch_norm(method):
        return
    option = "--optim.micro-batch" if share > 1 else "--optim.batch-size"
    raise ConfigError(
        f"{option}: leaves a batch norm with one image at a time; use a larger one, "
        "or --model.norm group"
    )


def has_batch_norm(method: Method) -> bool:
    """Whether a method's modules normalise over the batch."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in method.modules())


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
        takes_float16=method.takes_float16,
    )
    import_deepspeed()
    return resolved.config, resolved


def refuse_changes(config: Config, directory: Path) -> None:
    """Refuse to continue a run with other settings; ds.json has filled in its own on both sides."""
    saved = cli.load_file(directory / "config.json")
    changed = cli.differences(saved, config)
    if changed:
        raise CheckpointError(
            f"--resume: {directory} was trained with other settings: {'; '.join(changed)}; resume "
            "without changing them, or start a new run"
        )


def _claim(config: Config, world: World) -> Path:
    """Choose the run's directory; refuse one that holds another run."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    directory = config.output or Path("runs") / f"{config.method_name}-{now}"
    directory = Path(world.gather(str(directory))[0])
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--output: {directory} is a file; name a directory")
    _refuse_held(directory)
    return directory


def _refuse_held(directory: Path) -> None:
    held = [name for name in MARKS if (directory / name).exists()]
    if held:
        raise ConfigError(
            f"--output: {directory} holds another run ({held[0]} is there); continue it with "
            f"--resume {directory}, or name another directory"
        )


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
        # torch has no type of its own for it on a CPU
        full = isinstance(error, MemoryError) or "allocate" in str(error)
        if not full and "overflow" not in str(error):
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


def _start_directory(
    config: Config, directory: Path, world: World, launch: cli.Launch
) -> IO[str] | None:
    """Lock the directory on rank 0 and write config.json; what is wrong there, all ranks raise."""
    lock, problem = None, None
    if world.is_main:
        try:
            lock = hold(directory)
            if launch.resume is None:
                _refuse_held(directory)  # again: another run may have come and gone meanwhile
                write_json(directory / "config.json", cli.dump(config))
        except SsgearError as error:
            problem = error
    for found in world.gather(problem):
        if found is not None:
            raise found
    return lock


def _open_log(config: Config, directory: Path, world: World, launch: cli.Launch, total: int) -> Log:
    lock = _start_directory(config, directory, world, launch)
    first = 0
    if launch.resume is not None:
        first = int(read_manifest(find_latest(directory))["step"])
    if world.is_main:
        cut_metrics(directory, first)
    return Log(
        directory,
        enabled=world.is_main,
        lock=lock,
        tensorboard=config.log.tensorboard,
        progress=config.log.progress,
        total_steps=min(total, config.optim.max_steps or total),
        first_step=first,
    )
