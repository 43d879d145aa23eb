"""Fine-tune an encoder and train its network from scratch on few labels, and compare.

    python -m benchmarks finetune --run RUN --data DIR --json FILE

DIR has train/CLASS and test/CLASS. Both learn from the same balanced subset of the training images,
another for each seed, and are tested on all test images. Both choose their learning rate from one
grid, by trainings of half the length with seed 0 and training images that no subset has.
Training from scratch takes three times as many steps, and no layer decay. McNemar's test compares
the two of each seed.

With --json a training that is in the file is not done again, and what another piece wrote there
meanwhile is kept: `--starts scratch` needs of RUN only which network it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.finetune_rows import STARTS, Row, compared, keep, kept, key_of, table
from ssgear.config.schema import DataConfig
from ssgear.data.sources import load_images, open_source, scan
from ssgear.errors import ConfigError
from ssgear.evaluation.probes.finetune import fine_tune
from ssgear.evaluation.probes.labels import balanced_subset
from ssgear.evaluation.statistics import wilson
from ssgear.models.encoders import Normalized, build_encoder, open_subject

LAYER_DECAY = {"pretrained": 0.75, "scratch": 1.0}
"""From scratch all layers have everything to learn."""
STEPS = {"pretrained": 1, "scratch": 3}
"""Steps of each start over those of fine-tuning."""
HELD_SEED = -1
"""Seed of the images held out, unlike any of --seeds."""
TUNING_LENGTH = 0.5
"""Steps of a training that only compares learning rates, over those of the others."""

Part = tuple[Tensor, Tensor]
"""Images uint8 [N, 3, S, S] and labels int64 [N]."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is learned from and tested on."""

    pool: Part
    """Training images that subsets are taken from."""
    held: Part
    """Those that learning rates are chosen on."""
    test: Part
    num_train: int
    """Training images in all, which shares are of."""

    def subset(self, share: float, seed: int) -> Part:
        """Return the labelled images of a seed, as many of each class."""
        images, labels = self.pool
        share = min(1.0, share * self.num_train / len(labels))
        rows = balanced_subset(labels, share, seed=seed)
        return images[rows], labels[rows]


def load(folder: Path, size: int, num_held: int) -> Images:
    """Decode all images of a folder; `num_held` training images are held out."""
    data = DataConfig(source="folder", path=folder, size=size)
    parts: list[Part] = []
    for split in ("train", "test"):
        source, _ = scan(open_source(data, "train" if split == "train" else "test"), data)
        if source.labels is None:
            raise ConfigError(f"--data: {folder} has no labels; use train/CLASS and test/CLASS")
        parts.append((load_images(source, torch.arange(len(source)), size), source.labels))
    (images, labels), test = parts
    held = balanced_subset(labels, num_held / len(labels), seed=HELD_SEED)
    pool = torch.ones(len(labels), dtype=torch.bool)
    pool[held] = False
    return Images(
        pool=(images[pool], labels[pool]),
        held=(images[held], labels[held]),
        test=test,
        num_train=len(labels),
    )


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains what is not in the file yet."""

    options: argparse.Namespace
    encoder: Normalized
    images: Images
    settings: dict[str, Any]

    def row(self, start: str, share: float, seed: int, lr: float, *, is_tuning: bool) -> Row:
        """Return the row of a training, from the file if it is there."""
        rows, _ = kept(self.options.json, self.settings)
        key = key_of(start, share, seed, lr, is_tuning=is_tuning)
        if key in rows:
            return rows[key]
        row, right = self.train(start, share, seed, lr, is_tuning=is_tuning)
        print(f"{key}: {100 * row.accuracy:.2f} %, {row.seconds:.0f} s", flush=True)
        keep(self.options, self.settings, row, right)
        return row

    def train(
        self, start: str, share: float, seed: int, lr: float, *, is_tuning: bool
    ) -> tuple[Row, Tensor]:
        """Train and test; return also which images are right."""
        images, labels = self.images.subset(share, seed)
        test_images, test_labels = self.images.held if is_tuning else self.images.test
        batch = min(self.options.batch_size, len(labels))
        steps = STEPS[start] * self.options.steps * (TUNING_LENGTH if is_tuning else 1)
        epochs = math.ceil(steps / (len(labels) // batch))
        begin = time.perf_counter()
        result = fine_tune(
            self.start_of(start, seed), images, labels, test_images, test_labels, epochs=epochs,
            batch_size=batch, lr=lr, layer_decay=LAYER_DECAY[start], seed=seed,
            device=torch.device(self.options.device),
        )  # fmt: skip
        right = (result.predicted[:, 0] == test_labels).byte()
        row = Row(
            start=start, share=share, seed=seed, lr=lr, is_tuning=is_tuning,
            num_train=len(labels), epochs=epochs, num_test=len(right), accuracy=result.top1,
            interval=wilson(int(right.sum()), len(right)), seconds=time.perf_counter() - begin,
        )  # fmt: skip
        return row, right

    def start_of(self, start: str, seed: int) -> Normalized:
        """Return the encoder, or its network with the initial weights of a seed."""
        if start == "pretrained":
            return self.encoder
        config = dataclasses.replace(self.encoder.config, weights=None)
        untrained = build_encoder(config, self.encoder.size, seed=seed)
        return Normalized(untrained, self.encoder.mean, self.encoder.std)

    def best_lr(self, start: str, share: float) -> float:
        """Return the learning rate that does best on the held-out images."""
        rows = [self.row(start, share, 0, lr, is_tuning=True) for lr in self.options.lrs]
        return max(rows, key=lambda row: row.accuracy).lr


def add_options(parser: Parser) -> None:
    """Add which encoder, which images, and how long."""
    add = parser.add_argument
    add("--run", help="run, encoder.safetensors or timm:NAME that is fine-tuned")
    add("--data", type=Path, metavar="DIR", help="has train/CLASS and test/CLASS")
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    add("--shares", nargs="+", type=float, default=[0.01, 0.1], help="of the labels")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--lrs", nargs="+", type=float, default=[1e-3, 4e-3], help="grid of both starts")
    add("--steps", type=count, default=500, help="of fine-tuning")
    add("--batch-size", type=count, default=64)
    add("--held-out", type=count, default=2000, help="training images to choose --lrs on")


def measure(options: argparse.Namespace) -> int:
    """Train what is not in the file yet, and print the table."""
    for name, use in (("run", "fine-tune"), ("data", "learn from"), ("json", "keep trainings in")):
        if getattr(options, name) is None:
            raise ConfigError(f"--{name}: required; name what to {use}")
    encoder = open_subject(options.run)
    settings = {
        "network": encoder.config.name, "size": encoder.size, "steps": options.steps,
        "steps_of_starts": STEPS, "batch_size": options.batch_size, "lrs": options.lrs,
        "tuning_length": TUNING_LENGTH, "layer_decay": LAYER_DECAY, "held_out": options.held_out,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    kept(options.json, settings)
    images = load(options.data, encoder.size, options.held_out)
    trainer = Trainer(options=options, encoder=encoder, images=images, settings=settings)
    for start in options.starts:
        for share in options.shares:
            lr = trainer.best_lr(start, share)
            for seed in options.seeds:
                trainer.row(start, share, seed, lr, is_tuning=False)
    if entries := compared(*kept(options.json, settings)):
        print(f"\naccuracy in % on {len(images.test[1]):,} test images\n\n{table(entries)}")
    return 0


BENCHMARK = Benchmark("finetune", __doc__, measure, add_options)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
