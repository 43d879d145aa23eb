"""Time view generation by stage: eager, compiled and TensorRT.

A UNet and a VAE of Stable Diffusion 2's size on a GPU (512 pixels, half precision), a tiny one on a
CPU, with random weights: eager as diffusers documents it (half precision, channels-last, SDPA)
against what `--compile` makes of it. A compiled part gives what eager gives, within
`ssgear.views.compile.parts.BOUNDS`, before it is timed; what does not, or is not installed, is left
out with the reason. Contenders take turns in every round, the fastest round counts. Shares are of
the matrix unit's rate measured here, by counted FLOPs. Then text encoder, super-resolution and
captioning once for a batch, and what a whole image takes. GPU figures: none were taken so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import view_models
from benchmarks.common import machine, table
from benchmarks.common.command import Benchmark, Parser, count
from benchmarks.common.timing import in_turns
from ssgear.errors import SsgearError, first_line
from ssgear.views.compile.compile import compile_pipeline
from ssgear.views.compile.parts import parts_of

CONTENDERS = {"cpu": ("eager", "inductor", "onnx"), "cuda": ("eager", "inductor", "tensorrt")}
BATCHES = {"cpu": (1, 2), "cuda": (1, 8, 16)}
DTYPES = {"cpu": torch.float32, "cuda": torch.float16}
COMPILED = ("unet", "vae_decoder")
COLUMNS = {
    "ms": "{0.milliseconds:.2f}",
    "images/s": "{0.images_per_second:.2f}",
    "over eager": "{0.ratio:.2f}x",
    "GFLOP": "{0.gflop:.3g}",
    "of limit": "{0.percent_of_limit:.0f} %",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage of one contender at one batch size."""

    stage: str
    """unet (one step, with guidance), vae_decoder, text encode, upscale, caption or image."""
    batch: int
    contender: str
    milliseconds: float
    """Of a batch."""
    images_per_second: float
    ratio: float
    """Time of eager over this one's."""
    gflop: float
    percent_of_limit: float
    """Of the matrix unit's rate."""


def measure_batch(
    size: str, batch: int, options: argparse.Namespace
) -> tuple[list[Row], list[str]]:
    """Compile, check and time all contenders at one batch size; return why some are missing."""
    device, dtype = torch.device(options.device), DTYPES[options.device]
    calls, left_out = compiled_calls(size, batch, options)
    contenders = [contender for stage, contender in calls if stage == COMPILED[0]]
    try:
        others = view_models.stages(size, batch, device, dtype)
    except ImportError as error:
        others = {}
        left_out.append(f"other stages: {first_line(error)}; pip install 'ssgear[generate]'")
    calls |= {(stage, "eager"): call for stage, call in others.items()}
    with torch.no_grad():
        flops = {stage: counted(call) for (stage, name), call in calls.items() if name == "eager"}
        rounds = in_turns(
            calls, lambda call: machine.milliseconds(call, options.device), options.rounds
        )
    times = {key: min(values) for key, values in rounds.items()}
    # what all stages together take, the UNet many times
    image = f"image, {options.steps} steps"
    passes = {stage: options.steps if stage == "unet" else 1 for stage in flops}
    for name in contenders:
        parts = {stage: times.get((stage, name), times[stage, "eager"]) for stage in passes}
        times[image, name] = sum(passes[stage] * time for stage, time in parts.items())
    flops[image] = sum(number * flops[stage] for stage, number in passes.items())
    rate = machine.measure_rates(options.device, dtype).flop
    rows = [
        Row(
            stage=stage,
            batch=batch,
            contender=name,
            milliseconds=time,
            images_per_second=1000 * batch / time,
            ratio=times[stage, "eager"] / time,
            gflop=flops[stage] / 1e9,
            percent_of_limit=100 * flops[stage] / rate / time,
        )
        for (stage, name), time in times.items()
    ]
    return rows, left_out


def compiled_calls(
    size: str, batch: int, options: argparse.Namespace
) -> tuple[dict[tuple[str, str], Callable[[], Tensor]], list[str]]:
    """Return a call for each part and contender that gives what eager gives."""
    device, dtype = torch.device(options.device), DTYPES[options.device]
    side = view_models.SIZES[size]["image"]["side"]
    calls: dict[tuple[str, str], Callable[[], Tensor]] = {}
    left_out: list[str] = []
    for contender in options.contenders:
        pipe = view_models.pipeline(size, device, dtype)
        parts = {
            part.name: partial(
                part.call, part.module, view_models.drawn(pipe, part, batch, side, side)
            )
            for part in parts_of(pipe)
        }
        notices: list[str] = []
        used = dict.fromkeys(COMPILED, contender)
        if contender != "eager":
            try:
                used = compile_pipeline(
                    pipe,
                    mode=contender,
                    device=device,
                    notice=notices.append,
                    example=torch.no_grad()(lambda: [call() for call in parts.values()]),  # noqa: B023
                )
            except SsgearError as error:  # not installed, or not for this device
                used, notices = {}, [str(error)]
        left_out += notices
        calls |= {(n, contender): call for n, call in parts.items() if used.get(n) == contender}
    return calls, left_out


def counted(call: Callable[[], Any]) -> float:
    """Return the FLOPs of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def show(rows: list[Row], left_out: list[str]) -> None:
    """Print the lines of one batch size."""
    table.show(f"batch {rows[0].batch}", rows, "{0.stage}, {0.contender}", COLUMNS)
    for line in left_out:
        print(f"  left out: {line}")


def add_options(parser: Parser) -> None:
    """Add sizes and contenders."""
    names = sorted({name for names in CONTENDERS.values() for name in names})
    parser.add_argument("--size", choices=view_models.SIZES, help="by default sd2 on a GPU")
    parser.add_argument("--batches", type=count, nargs="+", help="images at a time")
    parser.add_argument("--steps", type=count, default=50, help="UNet steps of an image")
    parser.add_argument("--contenders", choices=names, nargs="+", help="beside eager")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Check, time and print."""
    device = options.device
    options.contenders = dict.fromkeys(("eager", *(options.contenders or CONTENDERS[device])))
    size = options.size or ("sd2" if device == "cuda" else "tiny")
    side = view_models.SIZES[size]["image"]["side"]
    dtype = str(DTYPES[device]).removeprefix("torch.")
    print(f"{size}, {side} pixels, {dtype}, guidance, {device}")
    rows: list[Row] = []
    missing: list[str] = []
    for batch in options.batches or BATCHES[device]:
        lines, left_out = measure_batch(size, batch, options)
        show(lines, left_out)
        rows += lines
        missing += left_out
    return {"size": size, "dtype": dtype, "left_out": missing, "rows": rows}


BENCHMARK = Benchmark("views", __doc__, measure, add_options)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
