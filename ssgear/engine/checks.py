"""What must fit together before the first step: method, images, views, ranks and batch.

Each refuses by naming the option to change; build.py calls them in the order of their cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from ssgear.config.schema import Config
from ssgear.data.loaders.base import ViewPlan
from ssgear.data.order.sampler import Sampler
from ssgear.data.sources import Source
from ssgear.distributed import World, usable_cores
from ssgear.engine.grad_cache import even_slices
from ssgear.errors import ConfigError, DataError, refusing, require
from ssgear.methods.base import Method, Needs


def check_counts(config: Config) -> None:
    """Refuse so many threads or processes that the machine would stand still, or OpenMP end it."""
    cores = usable_cores()
    most = max(64, 4 * cores)
    counts = {"--engine.threads": config.engine.threads, "--data.workers": config.data.workers}
    for option, count in counts.items():
        right = f"there are {cores} cores here; use at most {most}"
        require(count is None or count <= most, option, count, right)


def check_slices(config: Config, needs: Needs) -> None:
    """Refuse gradient caching where a method's losses need the batch whole."""
    if config.optim.micro_batch is not None and needs.whole_batch:
        raise ConfigError(
            f"--optim.micro-batch: {config.method_name} needs its batch whole, since its losses "
            "are not of embeddings alone, or of their statistics over the batch; leave it away, or "
            "use a smaller --optim.batch-size"
        )


def check_stores(config: Config, needs: Needs, *, makes_images: bool) -> None:
    """Refuse stores where their images cannot join those of the method.

    A method that makes a set of its own of the images cannot have others in it, and one that asks
    for whole images trains a generator, which learns from real ones alone (docs/math.md 2): it may
    show stored views, as they are no whole images.
    """
    if config.data.synthetic_share and (makes_images or needs.images):
        raise ConfigError(
            "--data.synthetic: this method takes real images only; leave it away, or pretrain by a "
            "method that sees views alone, such as simclr"
        )
    if config.views.store is not None and makes_images:
        raise ConfigError(
            "--views.store: this method makes its own images of the data, which no stored view is "
            "of; leave it away, or use a method that trains on the images themselves"
        )


@torch.no_grad()
def check_sides(method: Method, plan: ViewPlan) -> None:
    """Refuse views of several sizes where the encoder takes one size only."""
    if method.pretext is not None and method.pretext.changes_views:
        return
    network = method.encoder.network
    training = network.training
    network.eval()
    for side in sorted({*plan.sides} - {plan.size}):
        # networks of one size; maps smaller than a kernel
        with refusing((AssertionError, RuntimeError), _refuse_side(method, side)):
            network(torch.zeros(1, 3, side, side, device=plan.device))
    network.train(training)


def _refuse_side(method: Method, side: int) -> Callable[[Exception], ConfigError]:
    return lambda _: ConfigError(
        f"--data.augmentation: makes views of {side} pixels too, and {method.encoder.name} cannot "
        "take them; use a set of one size such as simclr, or a ResNet"
    )


def check_ranks(world: World, engine: str, sampler: Sampler, source: Source) -> None:
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


def check_rows(method: Method, config: Config, world: World) -> None:
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
