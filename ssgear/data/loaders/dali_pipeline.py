"""DALI's part of its engine: encoded images and boxes in, uint8 crops out.

An image is decoded once, on the GPU where there is one, and cropped and resized once per output. A
resize is two passes with a rounding between them, columns first, as `resample.py` does it. DALI
repeats the pixels of an edge where the kernel reaches past it; ours cuts the kernel and normalises.
So each crop gets a margin of zeros, and what comes out is divided by the share of the kernel that
lay inside: then the two agree to 2/255 in every pixel, and to the bit in 99 of 100.

The operators on the GPU are *untested on hardware*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssgear.data.loaders.jpeg import plain_size
from ssgear.data.sources.decode import open_rgb
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Source
from ssgear.errors import MissingDependencyError, first_line
from ssgear.kernels.augment.resample import RADIUS, Interpolation, kernel

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode

EXTRA = ("nvidia-dali-cuda130",)
"""What the extra `dali` installs."""
DEPTH = 2
"""Batches that are in the pipeline at a time."""


def why_not(device: torch.device) -> str:
    """Return what keeps DALI from feeding a device and what to install; empty where nothing does.

    Whether it was built for the CUDA of this PyTorch matters on a GPU only.
    """
    major = (torch.version.cuda or "13").partition(".")[0]
    package = f"nvidia-dali-cuda{major}0"
    mend = 'pip install "ssgear[dali]"' if package in EXTRA else f"pip install {package}"
    try:
        import nvidia.dali as dali
        import nvidia.dali.fn  # noqa: F401
    except Exception as error:  # a library that it needs may be absent too, which is an OSError
        absent = isinstance(error, ModuleNotFoundError) and "dali" in str(error.name)
        found = "is not installed" if absent else f"cannot be imported ({first_line(error)})"
        return f"NVIDIA DALI {found}; {mend}"
    built = str(dali.__cuda_version__ // 1000)
    if device.type == "cuda" and built != major:
        return (
            f"this NVIDIA DALI is built for CUDA {built}, PyTorch for CUDA {major}; "
            f"pip uninstall nvidia-dali-cuda{built}0, then {mend}"
        )
    return ""


def require(device: torch.device) -> None:
    """Refuse to go on where DALI cannot feed a device."""
    problem = why_not(device)
    if problem:
        raise MissingDependencyError(f"--data.loader dali: {problem}, or --data.loader torch")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One crop of every image."""

    size: int
    """Side in pixels."""
    interpolation: Interpolation
    """Kernel."""
    antialias: bool
    """Whether the kernel is widened when shrinking."""


Feed = dict[str, NDArray[np.generic] | list[NDArray[np.uint8]]]
"""What the pipeline is fed with for a batch, by name."""


class CropPipeline:
    """A running pipeline for batches of `rows` images at most."""

    def __init__(
        self,
        outputs: Sequence[Output],
        rows: int,
        threads: int,
        device: torch.device,
        *,
        apart: bool = False,
    ) -> None:
        """Build it and start its threads; `apart` gives every output images of its own."""
        from nvidia.dali import Pipeline

        self._device = device
        on_gpu = device.type == "cuda"
        self._pipe = Pipeline(
            batch_size=rows,
            num_threads=threads,
            device_id=(device.index or 0) if on_gpu else None,
            prefetch_queue_depth=DEPTH,
        )
        with self._pipe:
            images = [_decoded(str(i), on_gpu) for i in range(len(outputs) if apart else 1)]
            crops = [
                _crop(images[i if apart else 0], str(i), each, on_gpu)
                for i, each in enumerate(outputs)
            ]
            self._pipe.set_outputs(*crops)
        self._pipe.build()

    def feed(self, inputs: Feed) -> None:
        """Begin a batch; at most `DEPTH` may be under way."""
        for name, values in inputs.items():
            self._pipe.feed_input(name, values)
        self._pipe._run_once()  # schedule_run would start DEPTH batches at its first call

    def take(self) -> list[Tensor]:
        """Return the crops of the oldest batch, uint8 [n, 3, size, size] for each output.

        Raises:
            RuntimeError: an image of this batch or of a later one cannot be decoded; the pipeline
                is of no use any more.
        """
        stream = None
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
        crops = [
            torch.utils.dlpack.from_dlpack(out.as_tensor()) for out in self._pipe.outputs(stream)
        ]
        return [crop.permute(0, 3, 1, 2).contiguous() for crop in crops]


def dali_file(source: Source, index: int) -> tuple[bytes, tuple[int, int]]:
    """Return an image as DALI takes it, and its upright height and width.

    Raises:
        BadImageError: it cannot be read.
    """
    if isinstance(source.reader, ArrayReader):
        image = source.image(index)
        return as_ppm(image), (image.height, image.width)
    data = source.stored(index)
    size = plain_size(data)
    if size is not None:
        return data, size
    image = open_rgb(data)
    return as_ppm(image), (image.height, image.width)


def as_ppm(image: Image.Image) -> bytes:
    """Return an RGB image as a file that every decoder copies from."""
    return b"P6\n%d %d\n255\n" % image.size + image.tobytes()


def feed(
    files: Sequence[Sequence[bytes]], boxes: Sequence[Tensor], outputs: Sequence[Output]
) -> Feed:
    """Return what the pipeline needs.

    Args:
        files: n encoded images that all outputs share, or, for a pipeline that keeps them apart, as
            many for each output.
        boxes: [n, 4] for each output.
        outputs: what is made of them.
    """
    made: Feed = {
        f"{number}.files": [np.frombuffer(data, dtype=np.uint8) for data in each]
        for number, each in enumerate(files)
    }
    for number, (box, output) in enumerate(zip(boxes, outputs, strict=True)):
        start, shape = box.double().chunk(2, dim=1)
        widest = (shape / output.size).clamp(min=1) if output.antialias else torch.ones_like(shape)
        margin = (RADIUS[output.interpolation] * widest).ceil() + 1
        padded = shape + 2 * margin
        zero, side = torch.zeros_like(margin[:, 0]), torch.full_like(margin[:, 0], output.size)
        height, width = padded[:, 0], shape[:, 1]
        geometry = {
            "start": start.int(),
            "shape": shape.int(),
            "pad": -margin.int(),
            "padded": padded.int(),
            "row_size": torch.stack((height, side), dim=1).float(),
            "row_start": torch.stack((zero, margin[:, 1]), dim=1).float(),
            "row_end": torch.stack((height, margin[:, 1] + width), dim=1).float(),
            "column_start": torch.stack((margin[:, 0], zero), dim=1).float(),
            "column_end": torch.stack((margin[:, 0] + shape[:, 0], side), dim=1).float(),
            "row_gain": edge_gain(shape[:, 1], output)[:, None, :, None],
            "column_gain": edge_gain(shape[:, 0], output)[:, :, None, None],
        }
        made |= {f"{number}.{name}": values.numpy() for name, values in geometry.items()}
    return made


def edge_gain(lengths: Tensor, output: Output) -> Tensor:
    """Return what pixels made of sides with margins of zeros are to be multiplied by.

    One over the share of the kernel that lies inside the side: float32 [n, size] for sides of
    `lengths` [n] float64 pixels.
    """
    scale = (lengths / output.size)[:, None, None]
    widen = scale.clamp(min=1) if output.antialias else torch.ones_like(scale)
    reach = RADIUS[output.interpolation] * widen
    centre = (torch.arange(output.size)[:, None] + 0.5) * scale
    taps = torch.arange(2 * math.ceil(float(reach.max())) + 2)
    place = (centre - reach).floor() + taps
    weights = kernel(((place + 0.5 - centre) / widen).abs(), output.interpolation)
    inside = (place >= 0) & (place < lengths[:, None, None])
    return (weights.sum(-1) / (weights * inside).sum(-1)).float()


def _decoded(number: str, on_gpu: bool) -> DataNode:
    """Return the decoded images [H, W, 3], upright RGB."""
    from nvidia.dali import fn, types

    files = fn.external_source(name=f"{number}.files", dtype=types.UINT8, ndim=1)
    if not on_gpu:
        return fn.decoders.image(files, device="cpu", output_type=types.RGB)
    # colours are interpolated as on the CPU, for the same pixels within rounding
    return fn.decoders.image(
        files, device="mixed", output_type=types.RGB, jpeg_fancy_upsampling=True
    )


def _crop(images: DataNode, number: str, output: Output, on_gpu: bool) -> DataNode:
    """Return the graph of one crop [size, size, 3] uint8."""
    from nvidia.dali import fn, types

    def given(name: str) -> DataNode:
        return fn.external_source(name=f"{number}.{name}")

    def gain(name: str) -> DataNode:
        return given(name).gpu() if on_gpu else given(name)

    kinds = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
    common = {
        "interp_type": kinds[output.interpolation],
        "antialias": output.antialias,
        "dtype": types.FLOAT,
    }
    crop = fn.slice(images, start=given("start"), shape=given("shape"), axes=[0, 1])
    crop = fn.slice(
        crop,
        start=given("pad"),
        shape=given("padded"),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )
    rows = fn.resize(
        crop,
        size=given("row_size"),
        roi_start=given("row_start"),
        roi_end=given("row_end"),
        **common,
    )
    rows = fn.cast(rows * gain("row_gain"), dtype=types.UINT8)
    columns = fn.resize(
        rows,
        size=[output.size, output.size],
        roi_start=given("column_start"),
        roi_end=given("column_end"),
        **common,
    )
    return fn.cast(columns * gain("column_gain"), dtype=types.UINT8)
