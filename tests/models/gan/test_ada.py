"""ADA against flips, quarter turns and slices, polynomials, colour loops, and its controller.

The warp's oracle: its wavelet reproduces polynomials, so a ramp over the image must come out as
the same ramp at the places that 2 x 2 matrices written out here send the pixels to.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.models.gan import ada_colour, ada_geometry
from ssgear.models.gan.ada import Ada
from ssgear.models.gan.pixels import bilinear, gather, mirrored

ALWAYS, NEVER = 0.0, 1.0
"""Draws of `whether` that are below and above p = 1/2."""
HALF_P = torch.tensor(0.5)


def images_of(rows: int, side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return (torch.rand(rows, 3, side, side, generator=generator) * 2 - 1).to(dtype)


def batch_of(rows: int) -> Batch:
    place = torch.arange(rows)
    return Batch(views=[], index=place, position=place, seed=5, phase="critic")


def uniform_of(z: float) -> float:
    """The uniform number whose normal quantile is z."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def draws_of(*rows: Sequence[float] | float) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def mirror_shift(image: Tensor, down: int, right: int) -> Tensor:
    """Surround by mirror images and cut out."""
    side = image.shape[-1]
    for axis in (-2, -1):
        image = torch.cat((image.flip(axis), image, image.flip(axis)), dim=axis)
    return image[..., side - down : 2 * side - down, side - right : 2 * side - right]


# p = 0, names and rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probability_zero_leaves_every_bit(dtype: torch.dtype) -> None:
    images = images_of(4, 7, dtype)
    assert torch.equal(Ada()(images, batch_of(4).draw), images)
    # a draw may be 0 itself
    assert torch.equal(Ada()(images, lambda name, shape: torch.zeros(4, *shape)), images)


def test_rows_where_nothing_happens_keep_every_bit() -> None:
    images, p = images_of(2, 7), HALF_P
    for function, count, whether in (
        (ada_geometry.blit, ada_geometry.BLIT_COUNT, 3),
        (ada_geometry.warp, ada_geometry.WARP_COUNT, 5),
        (ada_colour.change_colours, ada_colour.COUNT, 5),
    ):
        draws = torch.full((2, count), 0.2, dtype=torch.float64)
        draws[0, :whether], draws[1, :whether] = NEVER, ALWAYS
        changed = function(images, draws, p)
        assert torch.equal(changed[0], images[0]), function
        assert not torch.allclose(changed[1], images[1], atol=0.01), function


def test_every_image_is_changed_where_p_is_one() -> None:
    images = images_of(64, 5)
    changed = Ada(("geom",), p=1.0, p_max=1.0)(images, batch_of(64).draw)
    assert ((changed - images).flatten(1).abs().amax(dim=1) > 1e-3).all()


# whole pixels


@pytest.mark.parametrize("side", [5, 8])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_blit_equals_flip_then_turn_then_mirrored_slice(
    side: int, mirror: bool, quarters: int
) -> None:
    steps = 0.125 * side
    most = round(steps)
    shifts = list(itertools.product(range(-most, most + 1), repeat=2))
    images = images_of(len(shifts), side)
    draws = draws_of(
        *(
            [ALWAYS] * 3
            + [0.25 if mirror else 0.75, (quarters + 0.5) / 4]
            + [0.5 + 0.5 * max(-0.999, min(0.999, shift / steps)) for shift in shift_2]
            for shift_2 in shifts
        )
    )
    changed = ada_geometry.blit(images, draws, HALF_P)
    plain = torch.rot90(images.flip(3) if mirror else images, quarters, (2, 3))
    for shift_2, image, mine in zip(shifts, plain, changed, strict=True):
        assert torch.equal(mine, mirror_shift(image, *shift_2)), shift_2


def test_each_blit_happens_by_its_own_draw() -> None:
    images = images_of(3, 8)
    draws = draws_of(
        *(
            [ALWAYS if step == row else NEVER for step in range(3)] + [0, 0.3, 1, 0]
            for row in range(3)
        )
    )
    mirror, turn, shift = ada_geometry.blit(images, draws, HALF_P)
    assert torch.equal(mirror, images[0].flip(2))
    assert torch.equal(turn, torch.rot90(images[1], 1, (1, 2)))
    assert torch.equal(shift, mirror_shift(images[2], 1, -1))


# between pixels


def test_the_filter_is_orthonormal_and_has_six_vanishing_moments() -> None:
    taps = torch.tensor(ada_geometry.SYM6, dtype=torch.float64)
    place = torch.arange(12, dtype=torch.float64)
    assert float(taps.sum()) == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):
        product = float((taps[2 * shift :] * taps[: 12 - 2 * shift]).sum())
        assert product == pytest.approx(float(shift == 0), abs=1e-11)
    signs = (-1) ** place
    for power in range(6):
        assert abs(float((signs * (place / 12) ** power * taps).sum())) < 1e-8, power


@pytest.mark.parametrize("side", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warp_by_whole_pixels_is_a_mirrored_slice(side: int, dtype: torch.dtype) -> None:
    most = min(side, 3)
    shifts = list(itertools.product(range(-most, most + 1), repeat=2))
    images = images_of(len(shifts), side, dtype)
    linear = torch.eye(2, dtype=dtype).expand(len(shifts), 2, 2)
    right_down = torch.tensor([(right, down) for down, right in shifts], dtype=dtype)
    changed = ada_geometry.resample(images, linear, right_down)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for (down, right), image, mine in zip(shifts, images, changed, strict=True):
        plain = mirror_shift(image, down, right)
        torch.testing.assert_close(mine, plain, atol=tolerance, rtol=0, msg=f"{down}, {right}")


def rotation(angle: float) -> Tensor:
    return torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )


def centred(side: int) -> Tensor:
    """Places (x, y) of the pixels from the centre, [R, R, 2]."""
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack((x, y), dim=-1)


def ramps(at: Tensor) -> Tensor:
    """Three planes over places [..., 2]: [3, ...]."""
    x, y = at.unbind(-1)
    return torch.stack((x, y, 0.3 * x - 0.8 * y + 1))


@pytest.mark.parametrize(
    "which", [(0,), (1,), (2,), (3,), (4,), (1, 2, 3), (0, 1, 2, 3, 4)], ids=str
)
def test_warp_sends_a_ramp_where_the_maps_send_it(which: tuple[int, ...]) -> None:
    side = 63
    z_scale, u_turn1, z_stretch, u_turn2, z_right, z_down = -0.8, 0.58, 0.7, 0.35, 0.3, -0.2
    whether = [ALWAYS if step in which else NEVER for step in range(5)]
    much = [uniform_of(z_scale), u_turn1, uniform_of(z_stretch), u_turn2]
    much += [uniform_of(z_right), uniform_of(z_down)]
    images = ramps(centred(side))[None]
    # draws of `whether` at 0 are below any limit, also that of the turns
    (changed,) = ada_geometry.warp(images, draws_of(whether + much), HALF_P)

    steps = [
        torch.eye(2, dtype=torch.float64) * 2 ** (0.2 * z_scale),
        rotation(2 * math.pi * (u_turn1 - 0.5)),
        torch.diag(draws_of(2 ** (0.2 * z_stretch), 2 ** (-0.2 * z_stretch))),
        rotation(2 * math.pi * (u_turn2 - 0.5)),
    ]
    forward = torch.eye(2, dtype=torch.float64)
    for step in sorted(set(which) - {4}):
        forward = steps[step] @ forward
    shift = draws_of(z_right, z_down) * 0.125 * side * (4 in which)
    source = (centred(side) - shift) @ torch.linalg.inv(forward).T
    inside = source.abs().amax(dim=-1) < side / 2 - 9  # the filter has not met the border
    assert int(inside.sum()) > 500
    error = (changed - ramps(source))[:, inside].abs().max()
    assert error < 1e-8, float(error)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_warp_by_quarter_turns_is_close_to_turning_pixels(quarters: int) -> None:
    side = 33
    x, y = centred(side).unbind(-1)
    image = torch.stack((torch.sin(x / 3 + y / 5), torch.cos(y / 4), torch.sin(x * y / 60)))[None]
    # the map of (x, y), y downwards: torch.rot90 takes what is right of the centre upwards
    turn = rotation(-quarters * math.pi / 2)
    inverse = torch.linalg.inv(turn)[None]
    changed = ada_geometry.resample(image, inverse, torch.zeros(1, 2, dtype=torch.float64))
    error = (changed - torch.rot90(image, quarters, (2, 3)))[..., 4:-4, 4:-4].abs().max()
    assert error < 0.01, float(error)


def test_what_comes_in_from_outside_is_a_mirror_image() -> None:
    images = images_of(1, 9).mean(dim=(2, 3), keepdim=True).expand(1, 3, 9, 9)
    linear = 3.7 * rotation(0.4)[None]
    changed = ada_geometry.resample(images, linear, torch.full((1, 2), 11.3).double())
    torch.testing.assert_close(changed, images, atol=1e-10, rtol=0)


def test_pixels_gather_mirror_and_blend() -> None:
    assert mirrored(torch.arange(-4, 7), 3).tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    images = images_of(2, 5)
    rows, columns = torch.tensor([[[3]], [[0]]]), torch.tensor([[[1, 4]], [[2, 2]]])
    picked = gather(images, rows, columns)
    assert torch.equal(picked[0, :, 0], images[0, :, 3, [1, 4]])
    assert torch.equal(picked[1, :, 0], images[1, :, 0, [2, 2]])
    y, x = torch.tensor([[[1.25]], [[0.0]]]).double(), torch.tensor([[[2.5]], [[3.0]]]).double()
    one = images[0]
    blend = 0.75 * (one[:, 1, 2] + one[:, 1, 3]) / 2 + 0.25 * (one[:, 2, 2] + one[:, 2, 3]) / 2
    blended = bilinear(images, y, x)[..., 0, 0]
    torch.testing.assert_close(blended, torch.stack((blend, images[1, :, 0, 3])))


# colours


def plain_colours(rgb: list[float], draws: Sequence[float], which: Sequence[int]) -> list[float]:
    """One step after the other on one pixel; z of the normal ones, uniform of the others."""
    brightness, contrast, luma, hue, saturation = draws
    if 0 in which:
        rgb = [c + 0.2 * brightness for c in rgb]
    if 1 in which:
        rgb = [c * 2 ** (0.5 * contrast) for c in rgb]
    grey = sum(rgb) / 3
    if 2 in which and luma < 0.5:
        rgb = [c - 2 * grey for c in rgb]
        grey = -grey
    if 3 in which:
        angle = 2 * math.pi * (hue - 0.5)
        # turning about the grey axis mixes the channels with the weights of a circulant matrix
        weights = [(1 + 2 * math.cos(angle - 2 * math.pi * k / 3)) / 3 for k in range(3)]
        rgb = [sum(weights[(i - j) % 3] * rgb[j] for j in range(3)) for i in range(3)]
    if 4 in which:
        rgb = [grey + 2**saturation * (c - grey) for c in rgb]
    return rgb


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)], ids=str)
def test_colours_equal_a_loop_over_pixels(which: tuple[int, ...]) -> None:
    images = images_of(2, 3)
    drawn = [(0.9, -0.7, 0.3, 0.6, 0.8), (-1.1, 0.4, 0.6, 0.15, -1.3)]
    whether = [ALWAYS if step in which else NEVER for step in range(5)]
    draws = draws_of(
        *(
            [*whether, uniform_of(b), uniform_of(c), luma, hue, uniform_of(s)]
            for b, c, luma, hue, s in drawn
        )
    )
    changed = ada_colour.change_colours(images, draws, HALF_P)
    for image, row, mine in zip(images, drawn, changed, strict=True):
        plain = [plain_colours(rgb, row, which) for rgb in image.flatten(1).T.tolist()]
        expected = torch.tensor(plain, dtype=torch.float64)
        torch.testing.assert_close(mine.flatten(1).T, expected, atol=1e-7, rtol=0)


def test_a_third_of_the_hue_circle_permutes_the_channels() -> None:
    images = images_of(1, 3)
    draws = draws_of([NEVER, NEVER, NEVER, ALWAYS, NEVER, 0.5, 0.5, 0.9, 0.5 + 1 / 3, 0.5])
    changed = ada_colour.change_colours(images, draws, HALF_P)
    torch.testing.assert_close(changed, images.roll(1, dims=1), atol=1e-7, rtol=0)
    before, after = (colorsys.rgb_to_hls(*x[0, :, 0, 0].tolist())[0] for x in (images, changed))
    assert (after - before) % 1 == pytest.approx(1 / 3)


# how often, how much


def test_each_change_happens_with_its_probability() -> None:
    rows, p = 4000, 0.3
    draw, images = batch_of(rows).draw, images_of(1, 2).expand(rows, 3, 2, 2)
    margin = 4 * math.sqrt(0.25 / rows)
    draws = draw("geom", (ada_geometry.WARP_COUNT,)).double()
    neutral = torch.full_like(draws[:, 5:], 0.5)
    turns = []
    for step, expected in ((0, p), (1, 1 - 0.7**0.5), (2, p), (3, 1 - 0.7**0.5), (4, p)):
        own = torch.full_like(draws, NEVER)
        own[:, step] = draws[:, step]
        own[:, 5:] = neutral
        own[:, (5, 6, 7, 8, 9)[step]] = 0.7
        changed = ada_geometry.warp(images, own, torch.tensor(p))
        happened = (changed != images).flatten(1).any(dim=1)
        assert float(happened.double().mean()) == pytest.approx(expected, abs=margin), step
        turns += [happened] if step in (1, 3) else []
    assert float((turns[0] | turns[1]).double().mean()) == pytest.approx(p, abs=margin)

    changed = ada_geometry.blit(images, draw("blit", (ada_geometry.BLIT_COUNT,)), torch.tensor(p))
    # a side of 2 has no shift: mirrors (p / 2) and turns (3 p / 4) remain, and differ
    kept = float((changed == images).flatten(1).all(dim=1).double().mean())
    assert kept == pytest.approx((1 - p / 2) * (1 - 3 * p / 4), abs=margin)

    changed = ada_colour.change_colours(images, draw("color", (ada_colour.COUNT,)), torch.tensor(p))
    kept = float(torch.isclose(changed, images).flatten(1).all(dim=1).double().mean())
    assert kept == pytest.approx((1 - p) ** 4 * (1 - p / 2), abs=margin)


def test_strengths_have_their_spread() -> None:
    rows = 40_000
    draw, always = batch_of(rows).draw, torch.ones(rows, 5, dtype=torch.bool)
    draws = draw("geom", (6,)).double()

    def only(*steps: int) -> Tensor:
        return always & torch.tensor([step in steps for step in range(5)])

    linear, shift = ada_geometry.inverse_map(draws, only(0, 2, 4))
    scale = -0.5 * torch.log2(linear[:, 0, 0] * linear[:, 1, 1])
    stretch = 0.5 * torch.log2(linear[:, 1, 1] / linear[:, 0, 0])
    for values, std in ((scale, 0.2), (stretch, 0.2), (shift[:, 0], 0.125), (shift[:, 1], 0.125)):
        assert float(values.std()) == pytest.approx(std, rel=0.02)
        assert abs(float(values.mean())) < 0.02 * std * 2
    for step in (1, 3):
        linear, _ = ada_geometry.inverse_map(draws, only(step))
        angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
        assert float(angle.std()) == pytest.approx(math.tau / math.sqrt(12), rel=0.02)
        assert float(angle.abs().max()) == pytest.approx(math.pi, abs=0.01)

    drawn = draw("color", (5,)).double()
    _, brightness = ada_colour.colour_map(drawn, only(0))
    contrast, _ = ada_colour.colour_map(drawn, only(1))
    saturation, _ = ada_colour.colour_map(drawn, only(4))
    logs = (
        torch.log2(contrast.sum(dim=2)[:, 0]),
        torch.log2(saturation[:, 0, 0] - saturation[:, 0, 1]),
    )
    for values, std in ((brightness[:, 0], 0.2), (logs[0], 0.5), (logs[1], 1.0)):
        assert float(values.std()) == pytest.approx(std, rel=0.02)


def test_the_outermost_draws_give_finite_numbers() -> None:
    images = images_of(2, 5, torch.float32)
    ada = Ada(p=1.0, p_max=1.0)
    for extreme in (0.0, 1 - 2.0**-24):
        changed = ada(images, lambda name, shape, u=extreme: torch.full((2, *shape), u))
        assert changed.isfinite().all(), extreme


# the controller


def scores(positive: int, negative: int) -> Tensor:
    return torch.cat((torch.full((positive,), 0.3), torch.full((negative,), -7.0)))


@pytest.mark.parametrize(("positive", "direction"), [(10, 1), (9, 1), (8, 0), (7, -1), (0, -1)])
def test_p_moves_towards_the_target_every_fourth_step(positive: int, direction: int) -> None:
    ada = Ada(p=0.5, images=1000)  # r_t = (2 positive - 10) / 10; 0.6 is the target
    for step in range(1, 13):
        ada.update(Ada.signs(scores(positive, 10 - positive)))
        expected = 0.5 + direction * (step // 4) * 40 / 1000
        assert float(ada.p) == pytest.approx(expected, abs=1e-6), step
    assert float(ada.statistic) == pytest.approx((2 * positive - 10) / 10)


def test_half_a_million_images_take_p_from_0_to_1() -> None:
    ada = Ada(p_max=1.0)
    for _ in range(500_000 // 5000):
        ada.update(torch.tensor([5000.0, 5000.0]))
    assert float(ada.p) == pytest.approx(1.0, abs=1e-5)


def test_the_statistic_is_that_of_the_interval_alone() -> None:
    ada = Ada(p=0.5, images=1000)
    for positive in (10, 10, 10, 10, 0, 10, 10, 0):
        ada.update(Ada.signs(scores(positive, 10 - positive)))
    assert float(ada.statistic) == 0.0
    assert float(ada.p) == pytest.approx(0.5)  # up, then down


def test_p_stays_between_0_and_its_maximum() -> None:
    ada = Ada(p_max=0.3, images=100, interval=1)
    for count, bound in ((scores(0, 9), 0.0), (scores(9, 0), 0.3)):
        for _ in range(9):
            ada.update(Ada.signs(count))
        assert float(ada.p) == pytest.approx(bound, abs=1e-7)


def test_scores_of_every_type_and_shape_are_counted() -> None:
    given = torch.tensor([[1e-7, -2.0], [0.0, math.inf], [math.nan, -math.inf]])
    for dtype in (torch.float32, torch.bfloat16):
        assert Ada.signs(given.to(dtype).requires_grad_()).tolist() == [0.0, 6.0]
    ada = Ada(p=0.5, interval=1)
    ada.update(Ada.signs(torch.full((4,), math.nan)))
    assert float(ada.p) == pytest.approx(0.5 - 4 / 500_000, abs=1e-7)
    assert float(ada.statistic) == 0.0


def test_ranks_that_sum_their_signs_equal_one_process() -> None:
    one, several = Ada(images=100), Ada(images=100)
    given = torch.randn(24, generator=torch.Generator().manual_seed(1)) + 2
    for _ in range(5):
        one.update(Ada.signs(given))
        several.update(Ada.signs(given[:9]) + Ada.signs(given[9:]))
    assert torch.equal(one.p, several.p) and float(one.p) > 0


def test_a_restored_controller_goes_on_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    steps = [torch.randn(7, generator=generator) + 0.9 for _ in range(23)]
    whole, first, second = (Ada(p=0.2, images=333) for _ in range(3))
    for step in steps:
        whole.update(Ada.signs(step))
    for step in steps[:10]:  # in the middle of an interval
        first.update(Ada.signs(step))
    second.load_state_dict(first.state_dict())
    for step in steps[10:]:
        second.update(Ada.signs(step))
    assert float(whole.p) != float(first.p)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize(
    "settings",
    [
        {"p": 0.9},
        {"p": -0.1},
        {"p": math.nan},
        {"p_max": 1.1},
        {"target": 1.5},
        {"images": 0},
        {"interval": 0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"ada: p .*expected 0 <= p <= p_max <= 1"):
        Ada(**settings)  # type: ignore[arg-type]
