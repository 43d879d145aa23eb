"""The fused augmentation against the reference: every operation, alone and with the others."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.augment import views as augment
from ssgear.kernels.augment.forms import FORMS, Views
from ssgear.kernels.augment.params import BLUR, BOX, FLIP, GREY, JITTER, ORDER, SOLARISE
from ssgear.kernels.augment.views import (
    CASES,
    COLUMNS,
    AugmentSettings,
    Case,
    augment_views,
    crop_resize,
)
from ssgear.kernels.forms import Form, always_available, choose

BUILT = pytest.mark.skipif(not native.available(), reason=native.reason())
ROOT = Path(__file__).parents[3]
ALLOWED = 1e-3 / 255
NEAR = 0.01 / 255
"""This close to the threshold, a rounding decides whether a pixel is inverted."""
MIXED = Case(count=24, height=33, width=47, size=17, settings=AugmentSettings(blur_radius=1))
STATISTICS = {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}


def both(case: Case, params: Tensor, images: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Views by C++ and by the reference."""
    ours, right = (
        augment_views(images, params, case.settings, size=case.size, impl=impl, **options)
        for impl in ("cpp", "reference")
    )
    return ours, right


def undecided(case: Case, params: Tensor, images: Tensor) -> Tensor:
    """Pixels that are to be solarised and lie at the threshold."""
    bright = params.clone()
    bright[:, SOLARISE] = 0
    plain = augment_views(images, bright, case.settings, size=case.size, impl="reference")
    at_threshold = (plain - case.settings.solarise_threshold).abs() < NEAR
    return at_threshold & (params[:, SOLARISE] > 0).reshape(-1, 1, 1, 1)


def neutral(params: Tensor) -> Tensor:
    """The same boxes, and nothing else that changes a pixel."""
    plain = torch.zeros_like(params)
    plain[:, BOX], plain[:, ORDER] = params[:, BOX], torch.arange(4.0)
    plain[:, JITTER] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return plain


@BUILT
@pytest.mark.parametrize("case", CASES, ids=str)
def test_views_are_those_of_the_reference(case: Case) -> None:
    images, params = case.make()
    ours, right = both(case, params, images)
    off = torch.where(undecided(case, params, images), 0.0, ours - right).abs()
    assert off.max() < ALLOWED, (off.max() * 255, off.flatten(1).max(1).values * 255)


@BUILT
@pytest.mark.parametrize("case", CASES, ids=str)
def test_crop_and_flip_are_exact(case: Case) -> None:
    images, params = case.make()
    plain = neutral(params)
    plain[:, FLIP] = params[:, FLIP]
    for dtype in (torch.uint8, torch.float32, torch.bfloat16):
        ours, right = both(case, plain, images, dtype=dtype)
        assert ours.dtype == dtype and torch.equal(ours, right)


@BUILT
@pytest.mark.parametrize("column", [*range(5, 9), GREY, BLUR, SOLARISE])
def test_each_operation_alone(column: int) -> None:
    images, params = MIXED.make()
    plain = neutral(params)
    plain[:, column] = torch.linspace(0.1, 1.7, 24) if column < 9 or column == BLUR else 1.0
    ours, right = both(MIXED, plain, images)
    unchanged, _ = both(MIXED, neutral(params), images)
    assert (ours - right).abs().max() < ALLOWED
    assert (ours - unchanged).abs().max() > 0.05, "it does something"


@BUILT
@pytest.mark.parametrize("hue_step", range(4))
def test_every_order(hue_step: int) -> None:
    orders = [[*rest[:hue_step], 3, *rest[hue_step:]] for rest in itertools.permutations(range(3))]
    images, params = MIXED.make()
    params[:, ORDER] = torch.tensor(orders * 4, dtype=torch.float32)
    params[:, JITTER] = torch.tensor([1.3, 0.6, 1.5, -0.3])
    params[:, SOLARISE] = 0
    ours, right = both(MIXED, params, images)
    assert (ours - right).abs().max() < ALLOWED


@BUILT
def test_turns_of_the_hue_and_colours_without_one() -> None:
    """Full circles do not count; grey, black, white and primary pixels have ties."""
    primaries = torch.tensor(list(itertools.product((0, 100, 255), repeat=3)), dtype=torch.uint8)
    images = primaries.T.reshape(1, 3, 3, 9).expand(13, 3, 3, 9)
    params = neutral(torch.zeros(13, COLUMNS))
    params[:, 8] = torch.linspace(-1.5, 1.5, 13)
    case = Case(count=13, height=3, width=9, size=None)
    ours, right = both(case, params, images)
    assert (ours - right).abs().max() < ALLOWED
    for row, turn in enumerate(params[:, 8].tolist()):
        theirs = tv.adjust_hue(images[row].float() / 255, (turn + 0.5) % 1 - 0.5)
        assert (ours[row] - theirs).abs().max() < 2 * ALLOWED


@BUILT
@pytest.mark.parametrize("sigma", [1e-30, 1e-4, 0.02, 0.1])
def test_a_tiny_sigma_changes_nothing(sigma: float) -> None:
    images, params = MIXED.make()
    plain = neutral(params)
    before, _ = both(MIXED, plain, images)
    plain[:, BLUR] = sigma
    ours, right = both(MIXED, plain, images)
    assert torch.equal(ours, before) and (ours - right).abs().max() < ALLOWED


@BUILT
def test_a_wide_sigma_and_a_threshold_at_either_end() -> None:
    images, params = MIXED.make()
    params[:, BLUR], params[:, SOLARISE] = 1e6, 0
    settings = AugmentSettings(blur_radius=16)
    ours, right = both(dataclasses.replace(MIXED, settings=settings), params, images)
    assert (ours - right).abs().max() < ALLOWED
    for threshold, expected in ((0.0, 1.0), (1.0, 0.0)):
        settings = AugmentSettings(solarise_threshold=threshold)
        dark = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
        one = neutral(torch.zeros(1, COLUMNS))
        one[:, SOLARISE] = 1
        assert (augment_views(dark, one, settings, size=None, impl="cpp") == expected).all()


@BUILT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_types_and_orders_of_views(dtype: torch.dtype, channels_last: bool) -> None:
    images, params = MIXED.make()
    case = dataclasses.replace(MIXED, settings=AugmentSettings(blur_radius=1, **STATISTICS))
    exact = augment_views(images, params, case.settings, size=17, impl="cpp")
    ours, right = both(case, params, images, dtype=dtype, channels_last=channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert ours.is_contiguous(memory_format=order) and right.is_contiguous(memory_format=order)
    assert ours.dtype == right.dtype == dtype
    if dtype == torch.uint8:
        mean, std = (torch.tensor(row).reshape(3, 1, 1) for row in STATISTICS.values())
        off = (ours.float() - (exact * std + mean) * 255).abs()
        assert off.max() < 0.5 + 1e-3, "pixels, to the nearest"
    else:
        assert torch.equal(ours, exact.to(dtype))


@BUILT
def test_images_of_any_strides() -> None:
    images, params = MIXED.make()
    right = augment_views(images, params, MIXED.settings, size=17, impl="cpp")
    wide = torch.zeros(24, 4, 39, 99, dtype=torch.uint8)
    part = wide[:, 1:, 2:35, 3:97:2]
    part.copy_(images)
    for other in (images.to(memory_format=torch.channels_last), part):
        assert not other.is_contiguous()
        assert torch.equal(augment_views(other, params, MIXED.settings, size=17), right)
    one = images[5:6].expand_as(images)
    again = augment_views(one, params[5:6].expand_as(params), MIXED.settings, size=17)
    assert torch.equal(again, right[5:6].expand_as(right))


@BUILT
def test_crops_in_float32_are_as_good_as_in_uint8() -> None:
    case = Case(count=24, height=29, width=35, size=None, settings=AugmentSettings(blur_radius=3))
    images, params = case.make()
    expected = augment_views(images, params, case.settings, size=None, impl="cpp")
    for crops in (images.float(), images.float().to(memory_format=torch.channels_last)):
        found = augment_views(crops, params, case.settings, size=None, impl="cpp")
        assert torch.equal(found, expected)


@BUILT
def test_a_view_depends_on_its_row_alone() -> None:
    images, params = MIXED.make()
    whole = augment_views(images, params, MIXED.settings, size=17, impl="cpp")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for rows in (slice(7, 8), slice(3, 20), slice(None)):
                some = (images[rows], params[rows])
                views = augment_views(*some, MIXED.settings, size=17, impl="cpp")
                assert torch.equal(views, whole[rows]), (threads, rows)
    finally:
        torch.set_num_threads(before)


PROGRAM = """
import sys, torch
from ssgear.kernels.augment import CASES, augment_views
for case, (images, params, expected) in zip(CASES, torch.load(sys.argv[1]), strict=True):
    views = augment_views(images, params, case.settings, size=case.size, impl="cpp")
    assert torch.equal(views, expected), case
print(torch.backends.cpu.get_cpu_capability().lower())
"""


@BUILT
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set_makes_the_same_bits(capability: str, tmp_path: Path) -> None:
    here = torch.backends.cpu.get_cpu_capability().lower()
    if capability == here or here not in ("avx2", "avx512"):
        pytest.skip(f"this CPU has {here}")
    made = []
    for case in CASES:
        images, params = case.make()
        views = augment_views(images, params, case.settings, size=case.size, impl="cpp")
        made.append((images, params, views))
    torch.save(made, tmp_path / "views.pt")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "views.pt")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, capability), done.stderr


def form_for(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    return choose("augment", impl, FORMS, Views(images, size, dtype), (images,)).name


def test_auto_takes_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    images, params = MIXED.make()
    floats = images.float()
    fast = "cpp" if native.available() else "reference"
    assert form_for("auto", images, 17, torch.float32) == fast
    assert form_for("auto", floats, None, torch.bfloat16) == fast
    assert form_for("auto", floats, 17, torch.float32) == "reference", "floats are resized there"
    assert form_for("auto", images, 17, torch.float64) == "reference"
    leaf = floats.clone().requires_grad_()
    assert form_for("auto", leaf, None, torch.float32) == "reference"
    views = augment_views(leaf, params, MIXED.settings, size=17)
    assert views.requires_grad
    monkeypatch.setattr(native, "reason", lambda: "it was not built")
    assert form_for("auto", images, 17, torch.float32) == "reference"
    with pytest.raises(ArgumentError, match="'cpp' is not possible here: it was not built; use au"):
        form_for("cpp", images, 17, torch.float32)


@pytest.mark.parametrize(
    ("kind", "size", "dtype", "reason"),
    [
        (
            torch.float32,
            17,
            torch.float32,
            "and float32 crops, and got torch.float32",
        ),
        (torch.float64, None, torch.float32, "and got torch.float64"),
        (torch.uint8, 17, torch.float16, "torch.float16 was asked for"),
    ],
)
def test_cpp_says_what_it_cannot_take(
    kind: torch.dtype, size: int | None, dtype: torch.dtype, reason: str
) -> None:
    with pytest.raises(ArgumentError, match=reason):
        form_for("cpp", torch.zeros(1, 3, 4, 4, dtype=kind), size, dtype)
    with pytest.raises(ArgumentError, match="it is for CPUs, and got meta"):
        form_for("cpp", torch.zeros(1, 3, 4, 4, dtype=torch.uint8, device="meta"), 2, torch.float32)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_no_images_no_views(impl: Any) -> None:
    images, params = MIXED.make()
    views = augment_views(images[:0], params[:0], MIXED.settings, size=17, impl=impl)
    assert views.shape == (0, 3, 17, 17)
    assert crop_resize(images[:0], params[:0, BOX], 9, impl=impl).shape == (0, 3, 9, 9)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(
    ("column", "value"),
    [(0, -1.0), (0, 33.0), (1, 0.5), (2, 0.0), (3, 48.0), (2, float("nan")), (9, 7.0), (10, 1.0)],
)
def test_boxes_and_orders_that_cannot_be(column: int, value: float, impl: Any) -> None:
    images, params = MIXED.make()
    params[4, ORDER] = torch.tensor([0.0, 2.0, 1.0, 3.0])
    params[4, column] = value
    with pytest.raises(ArgumentError, match=r"view 4 has the box .* of an image of 33 x 47"):
        augment_views(images, params, MIXED.settings, size=17, impl=impl)


def test_what_it_cannot_take() -> None:
    images, params = MIXED.make()
    for wrong, message in (
        ({"params": params[:3]}, r"give float32 \[24, 16\]"),
        ({"params": params.double()}, r"give float32 \[24, 16\]"),
        ({"images": images[:, :1]}, r"give \[N, 3, H, W\]"),
        ({"images": images.int()}, "give uint8, or floating-point"),
        ({"images": images.long()}, "images are torch.int64; give uint8, or floating-point"),
        ({"images": images.bool()}, "images are torch.bool"),
        ({"images": images[0]}, r"images \(3, 33, 47\); give \[N, 3, H, W\]"),
        ({"images": images[..., :0]}, r"images \(24, 3, 33, 0\) have no pixels"),
        ({"images": images[:0, :, :0], "params": params[:0]}, "have no pixels"),
        ({"images": images[:, :, :0], "size": None}, "have no pixels"),
        ({"images": images.numpy()}, "images are a ndarray"),
        ({"size": 0}, "at least 1 pixel"),
        ({"size": 17.5}, "size 17.5 is not possible; give whole pixels"),
        ({"dtype": torch.int32}, "dtype torch.int32 is not possible"),
        ({"settings": AugmentSettings(blur_radius=17)}, "from 0 to below the shorter side"),
        ({"settings": AugmentSettings(interpolation="box")}, "use bilinear or bicubic"),
        ({"impl": "cp"}, "did you mean cpp"),
    ):
        given: dict[str, Any] = {"images": images, "params": params, "settings": MIXED.settings}
        with pytest.raises(ArgumentError, match=message) as caught:
            augment_views(**given | {"size": 17} | wrong)
        assert "\n" not in str(caught.value)


def test_views_that_no_memory_holds() -> None:
    images, params = MIXED.make()
    with pytest.raises(ArgumentError, match=r"24 views of 2000000 x 2000000 take 1\.15e\+06 GB"):
        augment_views(images, params, MIXED.settings, size=2_000_000)


def test_floats_of_any_width_and_inputs_of_any_strides() -> None:
    images, params = MIXED.make()
    right = augment_views(images.float(), params, MIXED.settings, size=17)
    wide = augment_views(images.double(), params, MIXED.settings, size=17)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, right, rtol=0, atol=1e-4)
    strided = params.repeat_interleave(2, dim=0)[::2].T.contiguous().T
    assert not strided.is_contiguous()
    turned = images.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    made = augment_views(turned, strided, MIXED.settings, size=17)
    assert torch.equal(made, augment_views(images, params, MIXED.settings, size=17))
    assert turned.stride() != images.stride()


def test_a_crop_is_made_by_the_form_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    images, params = MIXED.make()
    asked: list[Any] = []

    def views(images: Tensor, *_: Any, size: int, impl: Any, dtype: torch.dtype) -> Tensor:
        asked.append((size, impl, dtype))
        return images

    monkeypatch.setattr(augment, "augment_views", views)
    forms = (Form("triton", always_available, views), FORMS[-1])
    monkeypatch.setattr(augment, "choose", lambda *_, **__: forms[0])
    crop_resize(images, params[:, BOX], 9)
    assert asked == [(9, "triton", torch.uint8)]


def test_statistics_that_cannot_be() -> None:
    images, params = MIXED.make()
    for wrong in ({"mean": (0.5,)}, {"std": (1.0, 1.0)}, {"std": (1.0, 0.0, 1.0)}):
        with pytest.raises(ArgumentError, match="give three values each"):
            augment_views(images, params, AugmentSettings(**wrong), size=17)  # type: ignore[arg-type]
