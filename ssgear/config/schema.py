"""Every setting of a run but the method's own, as frozen dataclasses. No torch is imported here.

The dotted name of a field is its option: `Config.optim.batch_size` is `--optim.batch-size`, and the
line below a field is its help. A method's own settings live in its file (`methods/NAME.py`, class
`Config`) and appear here as `Config.method`. Checks that need one section only stand in
`__post_init__` and name the option to change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssgear.errors import require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, how they are read, and what is done to a view."""

    source: str = "auto"
    """mini, digits (embedded), cifar10, cifar100, stl10, mnist, tiny-imagenet, folder, tar,
    webdataset."""
    path: Path | None = None
    """Folder or tar file of the images; folder or pattern of shards (train-{0000..0099}.tar)."""
    test_path: Path | None = None
    """Images for evaluation; without it, the source's own test split or a held-out share."""
    labels: Path | None = None
    """CSV file of `file,label` lines that replaces the labels taken from class folders."""
    download: bool = False
    """Let torchvision download a published data set into --data.path."""
    test_share: float = 0.1
    """Share of a folder without its own test split that is held out for evaluation, in [0, 1)."""
    size: int | None = None
    """Side of a training view in pixels; by default the images' own size up to 96, else 224."""
    augmentation: str = "auto"
    """simclr, byol, swav-multicrop... (README.md, Views); auto: simclr, -cifar up to 64 pixels."""
    min_scale: float | None = None
    """Smallest share of an image that a random crop covers; by default the augmentation's own."""
    loader: Literal["auto", "resident", "dali", "torch"] = "auto"
    """resident: decoded once, kept in memory as uint8; every epoch: dali (GPU), torch (workers)."""
    workers: int = 2
    """Worker processes of the torch loader, threads of dali (0: one a core) and of the decoder."""
    resident_limit_mb: int = 4096
    """The resident loader is chosen for sets up to this size, decoded."""
    max_bad_share: float = 0.01
    """Share of unreadable files above which a run stops; below it they are named and skipped."""
    cache: bool = True
    """Remember the listing and the check of many images in $XDG_CACHE_HOME (~/.cache)."""
    synthetic: Path | None = None
    """Store of generated images (python -m ssgear.generate) to train on beside the real ones."""
    synthetic_ratio: float | None = None
    """Share of the images seen that come from --data.synthetic, in [0, 1]; by default 0.5."""

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1) and sizes below 8."""
        bad_share, limit = self.max_bad_share, self.resident_limit_mb
        require(0 <= self.test_share < 1, "--data.test-share", self.test_share, "use [0, 1)")
        require(0 <= bad_share <= 1, "--data.max-bad-share", bad_share, "use [0, 1]")
        require(self.size is None or self.size >= 8, "--data.size", self.size, "use at least 8")
        smallest = self.min_scale
        require(smallest is None or 0 < smallest <= 1, "--data.min-scale", smallest, "use (0, 1]")
        require(self.workers >= 0, "--data.workers", self.workers, "use 0 or more")
        require(limit >= 0, "--data.resident-limit-mb", limit, "use 0 or more")
        ratio, option = self.synthetic_ratio, "--data.synthetic-ratio"
        require(ratio is None or 0 <= ratio <= 1, option, ratio, "use [0, 1]")
        wanted = "name the store of synthetic images by --data.synthetic"
        require(ratio is None or self.synthetic is not None, option, ratio, wanted)

    @property
    def synthetic_share(self) -> float:
        """Return the share of the images seen that are synthetic; 0 without a store."""
        if self.synthetic is None:
            return 0.0
        return 0.5 if self.synthetic_ratio is None else self.synthetic_ratio


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Stored generated views of the images that stand in for them."""

    store: Path | None = None
    """Store of generated views of the training images, shown in their place before augmentation."""
    probability: float = 1.0
    """Probability with which a stored view stands for the real image, in [0, 1]."""
    policy: Literal["second-only", "any", "pair"] = "second-only"
    """second-only: the second view may be stored; any: each; pair: upscaled original and stored."""

    def __post_init__(self) -> None:
        """Refuse what is no probability, and settings without a store that they are for."""
        probability, wanted = self.probability, "name the store of views by --views.store"
        require(0 <= probability <= 1, "--views.probability", probability, "use [0, 1]")
        given = self.store is not None
        require(given or probability == 1, "--views.probability", probability, wanted)
        require(given or self.policy == "second-only", "--views.policy", self.policy, wanted)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder."""

    name: str = "resnet18"
    """resnet_tiny (for CPUs), resnet18, resnet50, vit_small_patch16_224, any classifier of timm."""
    norm: Literal["batch", "group"] = "batch"
    """group replaces batch normalisation by group normalisation: no statistics over the batch."""
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    """First layers of a ResNet: cifar is 3x3 without pooling; auto: cifar up to 64 pixels."""
    weights: Path | None = None
    """encoder.safetensors (or its run) to start from."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Batch, length and optimiser."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    """Optimiser of the encoder's group."""
    lr: float = 0.4
    """Peak learning rate at the batch size given (not rescaled)."""
    weight_decay: float = 1e-4
    """Weight decay; norms and biases are left out."""
    momentum: float = 0.9
    """Momentum of sgd and lars; beta1 of adamw."""
    lars_eta: float = 0.02
    """lars: trust coefficient, a step's length over a weight's; ImageNet's recipes have 0.001."""
    lars_clip: bool = True
    """lars: no step is longer than plain SGD's at --optim.lr; ImageNet's recipes have no such."""
    batch_size: int = 256
    """Images of one step over all ranks."""
    micro_batch: int | None = None
    """Images encoded at a time on a rank (gradient caching): the exact gradient, less memory."""
    epochs: int = 100
    """Passes over the training images."""
    max_steps: int | None = None
    """Stop after this many steps in all; the learning rate's schedule still spans all epochs."""
    warmup_epochs: float = 10.0
    """Linear warm-up of the learning rate, then cosine to zero."""
    clip: float = 0.0
    """Largest global gradient norm; 0 clips nothing."""
    ema: float = 0.0
    """Decay of a moving average of the encoder's weights, which is then exported; 0 keeps none."""

    def __post_init__(self) -> None:
        """Refuse what no run can use."""
        finite = math.isfinite(self.lr)
        steps, micro = self.max_steps, self.micro_batch
        decay, warmup = self.weight_decay, self.warmup_epochs
        require(self.lr > 0 and finite, "--optim.lr", self.lr, "use a positive number")
        require(0 <= decay < math.inf, "--optim.weight-decay", decay, "use 0 or more")
        require(0 <= self.momentum < 1, "--optim.momentum", self.momentum, "use a value in [0, 1)")
        eta = self.lars_eta
        require(0 < eta < math.inf, "--optim.lars-eta", eta, "use a positive number")
        require(self.batch_size >= 2, "--optim.batch-size", self.batch_size, "use at least 2")
        require(micro is None or micro >= 1, "--optim.micro-batch", micro, "use at least 1")
        require(self.epochs >= 1, "--optim.epochs", self.epochs, "use at least 1")
        require(steps is None or steps >= 1, "--optim.max-steps", steps, "use at least 1")
        require(0 <= warmup < math.inf, "--optim.warmup-epochs", warmup, "use 0 or more")
        require(0 <= self.clip < math.inf, "--optim.clip", self.clip, "use 0 (none) or more")
        require(0 <= self.ema < 1, "--optim.ema", self.ema, "use a decay in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a step is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU is there."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast of the forward pass; weights, losses and optimiser stay float32."""
    compile: bool = False
    """torch.compile the encoder (and generator) in place."""
    channels_last: bool = True
    """Keep images and convolutions in channels-last memory order."""
    keep_memory: bool = True
    """On a CPU: keep freed memory for the next step, which is faster and takes more at the peak."""
    deterministic: bool = False
    """On a GPU: refuse kernels whose result depends on the order of execution (a CPU always is)."""
    threads: int | None = None
    """CPU threads of each rank; by default the cores divided by the ranks of this machine."""
    timeout_s: float = 600.0
    """A rank that does not answer for this long ends the run with its number named."""

    def __post_init__(self) -> None:
        """Refuse fewer than one thread and no time to answer."""
        threads = self.threads
        require(threads is None or threads >= 1, "--engine.threads", threads, "use at least 1")
        require(self.timeout_s > 0, "--engine.timeout-s", self.timeout_s, "use more than 0")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written while a run goes on."""

    every: int = 10
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard event files too."""
    progress: bool = True
    """Show a progress bar on a terminal."""

    def __post_init__(self) -> None:
        """Refuse an interval below one step."""
        require(self.every >= 1, "--log.every", self.every, "use at least 1 step")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a run is saved."""

    every: int = 500
    """Steps between two checkpoints; one more is saved at the end and on SIGTERM or Ctrl-C."""
    keep: int = 2
    """How many checkpoints stay on disk."""

    def __post_init__(self) -> None:
        """Refuse intervals below one step and keeping nothing."""
        require(self.every >= 1, "--checkpoint.every", self.every, "use at least 1 step")
        require(self.keep >= 1, "--checkpoint.keep", self.keep, "keep at least 1")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured while training and at its end."""

    every: int = 5
    """Epochs between two readings of kNN (with labels) and label-free health; 0: at the end."""
    final: bool = True
    """Linear probe, kNN and their baselines after the last epoch."""
    max_images: int = 10000
    """Images of each split used by the readings while training."""
    final_images: int | None = None
    """Images of each split used by the final figures; by default all."""
    inception: Path | None = None
    """File of Inception-v3's weights (torch-fidelity's): FID against test images at the end."""

    def __post_init__(self) -> None:
        """Refuse a negative interval and readings of nothing."""
        require(self.every >= 0, "--eval.every", self.every, "use 0 or more epochs")
        require(self.max_images >= 2, "--eval.max-images", self.max_images, "use at least 2")
        final = self.final_images
        require(final is None or final >= 2, "--eval.final-images", final, "use at least 2")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: everything that decides its numbers, and where it writes."""

    method_name: str = "simclr"
    """Training method: the name of one, or package.module:Class for one of your own."""
    method: Any = None
    """The method's own settings."""
    seed: int = 0
    """Decides initial weights, order, views and noise."""
    output: Path | None = None
    """Run directory; by default runs/METHOD-DATE-TIME."""
    deepspeed: Path | None = None
    """ds.json: train with DeepSpeed."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images and views."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """Stored generated views."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Batch, length, optimiser."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Device, precision, compilation."""
    log: LogConfig = field(default_factory=LogConfig)
    """Log lines."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Readings."""

    def __post_init__(self) -> None:
        """Refuse a seed that no generator takes."""
        require(0 <= self.seed < 2**32, "--seed", self.seed, "use 0 to 2^32 - 1")
