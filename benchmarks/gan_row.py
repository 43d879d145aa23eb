"""Time one kind of GAN at one size: a line of `train_step`, in a process of its own.

    python -m benchmarks gan_row dcgan 64 --batch 64 --compile-limit 120 --seconds 30

Seconds per 1000 images of one critic and one generator step: eager against a plain PyTorch loop,
then, where torch.compile is done within the limit, compiled against eager. What takes turns in the
same rounds is compared; medians count. A line of JSON is printed after each half, so that the first
stands where the process ends itself because compiling took too long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.common.machine import milliseconds
from benchmarks.common.timing import in_turns
from benchmarks.common.training import endless_steps, prepared
from ssgear.engine.run import Run
from ssgear.models.gan import stylegan2_layers as layers

BATCH = 64
STYLEGAN2_CPU_WIDTH = 8
"""`generator_width` of StyleGAN2 on a CPU: an eighth of the published 64."""
Step = Callable[[], object]


def joint_step(run: Run) -> Step:
    """Return one step of the trainer, loader included."""
    steps = endless_steps(run)
    return lambda: next(steps)


def plain_loop(run: Run) -> Callable[[], object]:
    """Return critic and generator step as a tutorial writes them, on networks of their own."""
    game: Any = run.method.game
    device, batch = run.device.type, run.config.optim.batch_size
    generator, critic = type(game.generator), type(game.critic)
    maker = generator(game.generator.config).to(run.device).train()
    judge = critic(game.critic.config).to(run.device).train()
    adam = {"lr": 2e-4, "betas": (0.0, 0.9)}
    makers = torch.optim.Adam(maker.parameters(), **adam)
    judges = torch.optim.Adam(judge.parameters(), **adam)
    side = game.resolution
    real = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    labels = torch.arange(batch, device=device) % 10 if game.condition else None

    def step() -> None:
        noise = torch.randn(batch, maker.noise_dim, device=device)
        with torch.no_grad():
            fake = maker(noise, labels)
        loss = F.relu(1 - judge(real, labels)).mean() + F.relu(1 + judge(fake, labels)).mean()
        judges.zero_grad(set_to_none=True)
        loss.backward()
        judges.step()
        judge.requires_grad_(False)
        loss = -judge(maker(torch.randn_like(noise), labels), labels).mean()
        makers.zero_grad(set_to_none=True)
        loss.backward()
        makers.step()
        judge.requires_grad_(True)

    return step


def grouped(self: Any, x_NIHW: Tensor, style_NW: Tensor) -> Tensor:
    """Compute a modulated convolution by one weight per sample (Karras et al. 2020, section 2.2).

    This is how most re-implementations write it.
    """
    scales = self.to_scales(style_NW)
    weight = self.weight * self.scale
    per_sample = weight[None] * scales[:, None, :, None, None]
    if self.demodulate:
        size = per_sample.square().sum(dim=(2, 3, 4), keepdim=True)
        per_sample = per_sample * (size + layers.EPS).rsqrt()
    n, outputs, inputs, kernel, _ = per_sample.shape
    x = x_NIHW.reshape(1, n * inputs, *x_NIHW.shape[2:])
    if not self.up:
        flat = per_sample.reshape(n * outputs, inputs, kernel, kernel)
        y = F.conv2d(x, flat, padding=kernel // 2, groups=n)
    else:
        turned = per_sample.flip((3, 4)).transpose(1, 2)
        flat = turned.reshape(n * inputs, outputs, kernel, kernel)
        y = F.conv_transpose2d(x, flat, stride=2, groups=n)
        y = layers.fir.smooth(y, self.taps_T, pad=1, gain=4.0)
    return y.reshape(n, outputs, *y.shape[2:])


def medians(
    steps: dict[str, Step], options: argparse.Namespace, seconds: float
) -> dict[str, float]:
    """Return the median milliseconds of each; all take turns in every round."""
    times = in_turns(
        steps, lambda step: milliseconds(step, options.device), options.rounds, seconds
    )
    return {name: statistics.median(values) for name, values in times.items()}


def check_grouped(run: Run) -> None:
    """Hold the plain modulated convolution to ours before either is timed."""
    generator: Any = run.method.game.generator
    modules = [m for m in generator.modules() if isinstance(m, layers.ModulatedConv2d)]
    for module in modules[:3]:
        device = module.weight.device
        x = torch.randn(3, module.weight.shape[1], 8, 8, device=device)
        style = torch.randn(3, generator.config.style_dim, device=device)
        with torch.no_grad():
            ours, plain = nn.Module.__call__(module, x, style), grouped(module, x, style)
        if not torch.allclose(ours, plain, rtol=1e-3, atol=1e-3):
            raise SystemExit("benchmarks.gan_row: the plain modulated convolution is not ours")


def plain_step(run: Run, kind: str) -> Step:
    """Return the plain loop; a StyleGAN2 has the modulated convolution that others write."""
    plain = plain_loop(run)
    if kind != "stylegan2":
        return plain
    check_grouped(run)

    def with_groups() -> None:
        with patch.object(layers.ModulatedConv2d, "forward", grouped):
            plain()

    return with_groups


def options_of(kind: str, size: int, width: int) -> tuple[str, ...]:
    """Return a plain GAN of hinge losses without augmentation."""
    return (
        "--preset", "cdcgan-quick", "--data.size", str(size), "--method.generator", kind,
        "--method.generator-width", str(width), "--method.critic-width", str(width),
        "--method.gp-weight", "0", "--method.critic-augment", "none",
    )  # fmt: skip


def compiled_step(run: Run, limit_s: float) -> tuple[Step, float]:
    """Return the step once it is compiled, and the seconds that took; past the limit, end all.

    Compilers are processes of their own, so that only ending the whole group leaves the machine
    quiet for what is measured next.
    """
    if os.getpgrp() != os.getpid():  # started by a script: its group is not ours to end
        os.setpgid(0, 0)
    step = joint_step(run)
    late = threading.Timer(limit_s, lambda: os.killpg(os.getpgrp(), signal.SIGKILL))
    late.daemon = True
    late.start()
    begin = time.monotonic()
    step()
    late.cancel()
    return step, time.monotonic() - begin


def add_options(parser: Parser) -> None:
    """Add what is timed, and for how long."""
    parser.add_argument("kind", choices=["dcgan", "stylegan2"])
    parser.add_argument("size", type=count)
    parser.add_argument("--batch", type=count, default=BATCH)
    parser.add_argument("--compile-limit", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=30.0, help="rounds begin within these")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one kind at one size."""
    narrow = options.kind == "stylegan2" and options.device == "cpu"
    width = STYLEGAN2_CPU_WIDTH if narrow else 64
    row: dict[str, Any] = {
        "what": options.kind, "size": options.size, "width": width, "batch": options.batch,
        "compile_limit_s": options.compile_limit, "compile_s": None, "compiled": None,
    }  # fmt: skip
    words = options_of(options.kind, options.size, width)
    batch = ("--optim.batch-size", str(options.batch))
    with tempfile.TemporaryDirectory() as name:
        eager = prepared(Path(name) / "eager", options.device, *words, *batch)
        steps = {"eager": joint_step(eager), "plain": plain_step(eager, options.kind)}
        times = medians(steps, options, options.seconds)
        # milliseconds an image are seconds a thousand
        row |= {key: value / options.batch for key, value in times.items()}
        print(json.dumps(row), flush=True)
        if options.compile_limit:
            fast = prepared(Path(name) / "fast", options.device, *words, *batch, "--engine.compile")
            step, row["compile_s"] = compiled_step(fast, options.compile_limit)
            times = medians({"eager": steps["eager"], "fast": step}, options, options.seconds)
            row["compiled"] = row["eager"] * times["fast"] / times["eager"]
            print(json.dumps(row), flush=True)
            fast.log.close()
        eager.log.close()
    return row


BENCHMARK = Benchmark("gan_row", __doc__, measure, add_options, rounds=12)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
