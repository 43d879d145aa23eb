"""Time training steps: `python -m benchmarks.train_step --what gan [--sizes 32 64] [--json FILE]`.

Two tables. The joint job of GAN + SSL against the sum of its phases, each timed alone on the same
rows without trainer and loader: what the engine adds. And seconds per 1000 images of plain GAN
training (critic and generator once each) against the same networks in a plain PyTorch loop, and
compiled. All take turns in every round; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from ssgear.config import cli
from ssgear.data.batch import Batch
from ssgear.engine.callbacks import Run
from ssgear.engine.isolate import only
from ssgear.engine.runtime import optimizer_of
from ssgear.engine.setup import prepare
from ssgear.engine.trainer import Trainer
from ssgear.models import stylegan2_layers as layers

ROUNDS, WARM = 12, 3
BATCH = 64
STYLEGAN2_CPU_WIDTH = 8
"""`generator_width` of StyleGAN2 on a CPU: an eighth of the published 64."""


def start(folder: Path, name: str, *options: str) -> Run:
    """Prepare a run of a preset without starting it."""
    fixed = ["--log.no-tensorboard", "--log.no-progress", "--optim.batch-size", str(BATCH)]
    return prepare(cli.parse([*fixed, "--output", str(folder / name), *options]))


def joint_step(run: Run) -> Callable[[], object]:
    """Return one step of the trainer, loader included."""
    trainer = Trainer(run, ())
    run.method.train()

    def batches() -> Any:
        epoch = 0
        while True:
            yield from run.loader.epoch(epoch, 0, trainer._streams)
            epoch += 1

    endless = batches()
    return lambda: trainer._step(endless)


def phase_alone(run: Run, name: str) -> Callable[[], object]:
    """Return one step of a phase in a bare loop: loss, backward, optimiser."""
    method = run.method
    phase = next(phase for phase in method.phases if phase.name == name)
    group = method.group_named(phase.group)
    optimizer = optimizer_of(group, run.config.optim)
    batch = next(iter(run.loader.epoch(0, 0, lambda _: [""])))
    batch = Batch(**{**vars(batch), "phase": name, "progress": 0.5})

    def step() -> None:
        with only(group, method.groups):
            method.loss(phase, batch).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_loop(run: Run) -> Callable[[], object]:
    """Return critic and generator step as a tutorial writes them, on networks of their own."""
    game: Any = run.method.game
    device = run.device.type
    generator, critic = type(game.generator), type(game.critic)
    maker = generator(game.generator.config).to(run.device).train()
    judge = critic(game.critic.config).to(run.device).train()
    adam = {"lr": 2e-4, "betas": (0.0, 0.9)}
    makers = torch.optim.Adam(maker.parameters(), **adam)
    judges = torch.optim.Adam(judge.parameters(), **adam)
    side = game.resolution
    real = torch.rand(BATCH, 3, side, side, device=device) * 2 - 1
    labels = torch.arange(BATCH, device=device) % 10 if game.condition else None

    def step() -> None:
        noise = torch.randn(BATCH, maker.noise_dim, device=device)
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


def medians(steps: dict[str, Callable[[], object]], device: str) -> dict[str, float]:
    """Return the median milliseconds of each; all take turns in every round."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM + ROUNDS):
        for name, step in steps.items():
            taken = machine.milliseconds(step, device)
            if number >= WARM:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_joint(folder: Path, device: str) -> dict[str, Any]:
    """Return the joint step and its phases alone, in milliseconds."""
    run = start(folder, "joint", "--preset", "gan-ssl-quick")
    steps: dict[str, Callable[[], object]] = {"joint": joint_step(run)}
    steps |= {phase.name: phase_alone(run, phase.name) for phase in run.method.phases}
    times = medians(steps, device)
    run.log.close()
    alone = sum(times[p.name] * p.repeat for p in run.method.phases)
    return {"what": "gan-ssl-quick", **times, "sum": alone, "ratio": times["joint"] / alone}


def measure_gan(folder: Path, kind: str, size: int, device: str) -> dict[str, Any]:
    """Return seconds per 1000 images of one critic and one generator step."""
    width = "64" if kind == "dcgan" or device == "cuda" else str(STYLEGAN2_CPU_WIDTH)
    options = (
        "--preset", "cdcgan-quick", "--data.size", str(size), "--method.generator", kind,
        "--method.generator-width", width, "--method.critic-width", width, "--method.gp-weight",
        "0", "--method.critic-augment", "none",
    )  # fmt: skip
    eager = start(folder, f"{kind}-{size}", *options)
    fast = start(folder, f"{kind}-{size}-compiled", *options, "--engine.compile")
    steps = {"eager": joint_step(eager), "compiled": joint_step(fast), "plain": plain_loop(eager)}
    patched = layers.ModulatedConv2d.forward
    if kind == "stylegan2":
        check_grouped(eager)
        plain = steps["plain"]

        def with_groups() -> None:
            layers.ModulatedConv2d.forward = grouped  # type: ignore[method-assign]
            try:
                plain()
            finally:
                layers.ModulatedConv2d.forward = patched  # type: ignore[method-assign]

        steps["plain"] = with_groups
    times = medians(steps, device)
    for run in (eager, fast):
        run.log.close()
    seconds = {name: value / BATCH for name, value in times.items()}  # ms an image = s a thousand
    return {"what": kind, "size": size, "width": int(width), **seconds}


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
            raise SystemExit("benchmarks.train_step: the plain modulated convolution is not ours")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and keep with --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--what", choices=["gan"], default="gan")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        joint = measure_joint(folder, device)
        print(
            f"one step of {joint['what']}: {joint['joint']:.0f} ms; its phases alone "
            + ", ".join(f"{p} {joint[p]:.0f}" for p in ("critic", "generator", "encoder"))
            + f", together {joint['sum']:.0f} ms: ratio {joint['ratio']:.3f}"
        )
        print(
            f"{'s / 1000 images':24} {'eager':>8} {'compiled':>9} {'plain':>8} {'plain/eager':>12}"
        )
        for kind in ("dcgan", "stylegan2"):
            for size in given.sizes:
                row = measure_gan(folder, kind, size, device)
                rows.append(row)
                label = f"{kind} {size} px, width {row['width']}"
                ratio = row["plain"] / row["eager"]
                print(
                    f"{label:24} {row['eager']:8.2f} {row['compiled']:9.2f} {row['plain']:8.2f} "
                    f"{ratio:12.2f}"
                )
    if given.json:
        found = {**machine.describe(device), "joint": joint, "gan": rows}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
