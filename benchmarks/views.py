"""Time view generation by stage: `python -m benchmarks.views [--device cuda] [--json FILE]`.

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
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine, view_models
from benchmarks.kernels import Parser, count
from ssgear.errors import SsgearError, first_line
from ssgear.views.compile.compile import compile_pipeline
from ssgear.views.compile.parts import drawn, parts_of

ROUNDS = 7
CONTENDERS = {"cpu": ("eager", "inductor", "onnx"), "cuda": ("eager", "inductor", "tensorrt")}
BATCHES = {"cpu": (1, 2), "cuda": (1, 8, 16)}
DTYPES = {"cpu": torch.float32, "cuda": torch.float16}
COMPILED = ("unet", "vae_decoder")


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
    try:
        others = view_models.stages(size, batch, device, dtype)
    except ImportError as error:
        others = {}
        left_out.append(f"other stages: {first_line(error)}; pip install 'ssgear[generate]'")
    calls |= {(stage, "eager"): call for stage, call in others.items()}
    with torch.no_grad():
        flops = {stage: counted(calls[stage, "eager"]) for stage, _ in calls}
        times = fastest(calls, options.device)
    rate = machine.measure_rates(options.device, dtype).flop
    rows = []
    for (stage, contender), time in times.items():
        limit = flops[stage] / rate
        rows.append(
            row_of(stage, batch, contender, time, times[stage, "eager"], flops[stage], limit)
        )
    return rows + whole_images(rows, batch, options.steps), left_out


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
        notices: list[str] = []
        used = dict.fromkeys(COMPILED, contender)
        if contender != "eager":
            try:
                used = compile_pipeline(
                    pipe,
                    mode=contender,
                    batch_size=batch,
                    height=side,
                    width=side,
                    device=device,
                    notice=notices.append,
                )
            except SsgearError as error:  # not installed, or not for this device
                used, notices = {}, [str(error)]
        left_out += notices
        for part in parts_of(pipe):
            if used.get(part.name) == contender:
                inputs = drawn(pipe, part, batch, side, side)
                calls[part.name, contender] = caller(part, inputs)
    return calls, left_out


def caller(part: Any, inputs: Any) -> Callable[[], Tensor]:
    """Return what runs a part as its pipeline does."""
    return lambda: part.call(part.module, inputs)


def counted(call: Callable[[], Any]) -> float:
    """Return the FLOPs of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def fastest(
    calls: dict[tuple[str, str], Callable[[], Any]], device: str
) -> dict[tuple[str, str], float]:
    """Return the milliseconds of the fastest round of each call, all taking turns."""
    for call in calls.values():
        call()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(ROUNDS):
        for key, call in calls.items():
            times[key].append(machine.milliseconds(call, device))
    return {key: min(found) for key, found in times.items()}


def whole_images(rows: list[Row], batch: int, steps: int) -> list[Row]:
    """Return what all stages together take: super-resolution, caption, text, steps, decoder."""
    eager = {row.stage: row for row in rows if row.contender == "eager"}
    found: list[Row] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        own = {**eager, **{row.stage: row for row in rows if row.contender == contender}}
        times = {stage: row.milliseconds for stage, row in own.items()}
        total = sum(times.values()) + (steps - 1) * times["unet"]
        flop = sum(row.gflop for row in own.values()) + (steps - 1) * own["unet"].gflop
        before = found[0].milliseconds if found else total
        share = sum(row.percent_of_limit * row.milliseconds for row in own.values())
        share += (steps - 1) * own["unet"].percent_of_limit * times["unet"]
        name = f"image, {steps} steps"
        limit = share * 0.01
        found.append(row_of(name, batch, contender, total, before, 1e9 * flop, limit))
    return found


def row_of(
    stage: str, batch: int, contender: str, time: float, eager: float, flop: float, limit: float
) -> Row:
    """Return a line of the table; `limit` is the time of the products alone."""
    return Row(
        stage=stage,
        batch=batch,
        contender=contender,
        milliseconds=time,
        images_per_second=1000 * batch / time,
        ratio=eager / time,
        gflop=flop / 1e9,
        percent_of_limit=100 * limit / time,
    )


def show(rows: list[Row], left_out: list[str]) -> None:
    """Print the lines of one batch size."""
    heads = ("ms", "images/s", "over eager", "GFLOP", "of limit")
    print(f"\n{f'batch {rows[0].batch}':28}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        cells = [f"{row.milliseconds:.2f}", f"{row.images_per_second:.2f}", f"{row.ratio:.2f}x"]
        cells += [f"{row.gflop:.3g}", f"{row.percent_of_limit:.0f} %"]
        name = f"{row.stage}, {row.contender}"
        print(f"{name:28}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
    for line in left_out:
        print(f"  left out: {line}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Time view generation by stage.")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--size", choices=view_models.SIZES, help="by default sd2 on a GPU")
    parser.add_argument("--batches", type=count, nargs="+", help="images at a time")
    parser.add_argument("--steps", type=count, default=50, help="UNet steps of an image")
    known = sorted({name for names in CONTENDERS.values() for name in names})
    parser.add_argument("--contenders", choices=known, nargs="+", help="beside eager")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: there is no NVIDIA GPU here; use cpu")
    wanted = options.contenders or CONTENDERS[options.device]
    options.contenders = ["eager", *(name for name in wanted if name != "eager")]
    options.size = options.size or ("sd2" if options.device == "cuda" else "tiny")
    options.batches = options.batches or BATCHES[options.device]
    return options


def main() -> int:
    """Check, time, print, keep."""
    options = arguments()
    rows: list[Row] = []
    missing: list[str] = []
    side = view_models.SIZES[options.size]["image"]["side"]
    dtype = str(DTYPES[options.device]).removeprefix("torch.")
    print(f"{options.size}, {side} pixels, {dtype}, guidance, {options.device}")
    for batch in options.batches:
        lines, left_out = measure_batch(options.size, batch, options)
        show(lines, left_out)
        rows += lines
        missing += left_out
    if options.json:
        about = {**machine.describe(options.device), "size": options.size, "dtype": dtype}
        table = {**about, "left_out": missing, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
