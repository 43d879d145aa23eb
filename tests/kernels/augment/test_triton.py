"""The Triton augmentation: in the interpreter against the reference, and compiled ahead of time."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssgear.errors import ArgumentError
from ssgear.kernels.augment import triton as kernels
from ssgear.kernels.augment.forms import FORMS, Views
from ssgear.kernels.augment.params import SOLARISE, TRITON_CHECKS
from ssgear.kernels.augment.views import CASES, AugmentSettings, Case, augment_views
from ssgear.kernels.forms import choose
from tests.kernels.triton_ahead import describe

ROOT = Path(__file__).parents[3]
NORMALISED = AugmentSettings(blur_radius=2, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
TILED = Case(count=1, height=41, width=90, size=67, settings=NORMALISED)
SQUARE = (
    *(
        dataclasses.replace(case, count=min(case.count, 2))
        for case in CASES
        if case.size is not None and case.size <= 45 and case.width < 200
    ),
    dataclasses.replace(TILED, height=70, width=70, size=None),
    TILED,
)
ALLOWED = 1e-3 / 255
KINDS = ((torch.float32, False), (torch.bfloat16, True), (torch.uint8, False))


def short(case: Case) -> str:
    return f"{case.height}x{case.width}-{case.size}"


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Images and parameters; a rounding at solarise's threshold would count as a jump."""
    images, params = case.make()
    params[:, SOLARISE] = 0
    return images, params


def interpret(path: str) -> None:
    """Write what the interpreter gives; it has to be chosen before triton is imported."""
    views = {}
    for case in SQUARE:
        images, params = inputs(case)
        for dtype, channels_last in KINDS[: 3 if case is SQUARE[2] else 1]:
            views[f"{case} {dtype}"] = augment_views(
                images,
                params,
                case.settings,
                size=case.size,
                dtype=dtype,
                channels_last=channels_last,
                impl="triton",
            )
    torch.save(views, path)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    path = tmp_path_factory.mktemp("triton") / "views.pt"
    program = f"import tests.kernels.augment.test_triton as t; t.interpret({str(path)!r})"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    views: dict[str, Tensor] = torch.load(path)
    return views


@pytest.mark.parametrize(
    ("case", "dtype", "channels_last"),
    [*((case, *KINDS[0]) for case in SQUARE), *((SQUARE[2], *kind) for kind in KINDS[1:])],
    ids=lambda value: short(value) if isinstance(value, Case) else str(value),
)
def test_views_are_those_of_the_reference(
    case: Case, dtype: torch.dtype, channels_last: bool, interpreted: dict[str, Tensor]
) -> None:
    images, params = inputs(case)
    found = interpreted[f"{case} {dtype}"]
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert found.dtype == dtype and found.is_contiguous(memory_format=order)
    kind = torch.uint8 if dtype == torch.uint8 else torch.float32
    right = augment_views(
        images, params, case.settings, size=case.size, dtype=kind, impl="reference"
    )
    off = (found.double() - right.double()).abs()
    if dtype == torch.uint8:  # halves fall on either side
        assert off.max() <= 1 and (off > 0).double().mean() < 0.01
    elif dtype == torch.bfloat16:  # the interpreter cuts off where a GPU rounds
        assert (off <= 2**-7 * right.abs() + 4 * ALLOWED).all(), off.max()
    else:
        assert off.max() < 4 * ALLOWED, off.max() * 255


def form_for(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    return choose("augment", impl, FORMS, Views(images, size, dtype), (images,)).name


def test_it_is_chosen_where_it_can_work() -> None:
    images = torch.zeros(2, 3, 5, 7, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match="'triton' is not possible here: it is for NVIDIA GPUs"):
        form_for("triton", images, 4, torch.float32)
    with pytest.raises(ArgumentError, match="it makes square views, and crops are 5 x 7"):
        form_for("triton", images, None, torch.float32)
    with pytest.raises(ArgumentError, match=r"uint8, and torch\.float64 was asked for"):
        form_for("triton", images, 4, torch.float64)


KIND = {"BICUBIC": True, "ANTIALIAS": True}
PLANS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "32": (kernels.whole_kernel, {"RESIZE": True, **KIND, "SIZE": 32, "BLOCK": 32, "PIECE": 32}, 4),
    "64": (kernels.whole_kernel, {"RESIZE": True, **KIND, "SIZE": 64, "BLOCK": 64, "PIECE": 32}, 8),
    "crops": (
        kernels.whole_kernel,
        {"RESIZE": False, **KIND, "SIZE": 32, "BLOCK": 32, "PIECE": 32},
        4,
    ),
    "crop": (kernels.crop_kernel, {**KIND, "SIZE": 224, "BLOCK": 32, "PIECE": 32}, 4),
    "luma": (kernels.luma_kernel, {"SIZE": 224, "BLOCK": 32}, 4),
    "view": (kernels.view_kernel, {"SIZE": 224, "BLOCK": 32, "TILES": 64}, 4),
}
HERE = {("32", 90), ("crop", 90), ("luma", 80)}
"""Compiled in every run of the tests; the others under `make test-slow`."""


def signature(kernel: Any, constants: dict[str, Any]) -> dict[str, str]:
    """Types of a kernel's arguments, as `make_views` gives them."""
    pointers = {"images": "*u8", "crops": "*u8", "crops_nHWB": "*u8", "views": "*bf16"}
    pointers |= {"params_nC": "*fp32", "sums_nT": "*fp32"}
    floats = ("threshold", "mean_", "scale_")

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        return pointers.get(name) or ("fp32" if name.startswith(floats) else "i32")

    return {name: kind(name) for name in kernel.arg_names}


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        pytest.param(name, chip, marks=[] if (name, chip) in HERE else pytest.mark.slow)
        for name in PLANS
        for chip in (80, 90, 100)
        if not (name == "64" and chip == 80)  # made in tiles there
    ],
)
def test_compiled_without_spill_or_atomics(name: str, capability: int) -> None:
    kernel, constants, num_warps = PLANS[name]
    types = signature(kernel, constants)
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(types.values())
        if kind.startswith("*")
    }
    binary = triton.compile(
        ASTSource(kernel, types, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )
    code = describe(binary)
    assert code.spilled_bytes == 0, f"{code.registers} registers, {code.spilled_bytes} B spilled"
    assert code.shared_bytes <= 48 * 1024
    assert not re.search(r"\b(atom|red)\.", code.ptx)
    if name != "luma":
        assert re.search(r"mma\.sync|wgmma|tcgen05\.mma", code.ptx)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("case", [*CASES, *TRITON_CHECKS, TILED], ids=str)
def test_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    if case.size is None and case.height != case.width:
        pytest.skip("views are square")
    images, params = inputs(case)
    options: dict[str, Any] = {"size": case.size, "dtype": dtype}
    right = augment_views(images, params, case.settings, **options, impl="reference").double()
    there = images.cuda(), params.cuda()
    found, again = (
        augment_views(*there, case.settings, **options, impl="triton").cpu() for _ in range(2)
    )
    assert torch.equal(found, again)
    off = (found.double() - right).abs()
    unit = 1.0 if dtype == torch.uint8 else torch.finfo(dtype).eps * right.abs() + 8 * ALLOWED
    assert (off <= unit).all(), off.max()
