"""StyleGAN2 against plain formulations in float64, and first and second derivatives of each piece.

The plain forms make a weight for every sample, stuff zeros by hand and walk over taps in loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ssgear.errors import ArgumentError, ConfigError
from ssgear.losses.adversarial import zero_centred_penalty
from ssgear.models.gan import fir
from ssgear.models.gan import stylegan2_layers as layers
from ssgear.models.gan.activation import LeakyReLU, leaky_relu
from ssgear.models.gan.conditions import UNCONDITIONAL, Condition
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config
from ssgear.models.gan.stylegan2_critic import StyleGAN2Critic
from ssgear.models.gan.stylegan2_styles import PathLength, mix_styles

LABELS, VECTORS = Condition(kind="label", size=5), Condition(kind="vector", size=7)
CONDITIONS = pytest.mark.parametrize(
    "condition", [UNCONDITIONAL, LABELS, VECTORS], ids=lambda condition: condition.kind
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def config(**settings: Any) -> StyleGAN2Config:
    small = {"resolution": 16, "noise_dim": 6, "style_dim": 5, "mapping_layers": 2}
    small |= {"width_base": 48, "max_width": 4, "condition_layers": 2}
    return StyleGAN2Config(**{**small, **settings})


def given(condition: Condition, rows: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
    if condition.kind == "label":
        return torch.arange(rows) % condition.size
    return torch.randn(rows, condition.size, dtype=dtype) if condition else None


def normal(*shape: int, leaf: bool = False) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=leaf)


def awake(module: torch.nn.Module) -> None:
    """Move what starts at zero, so that a test sees it."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("bias", "noise_weight")):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


# plain formulations


def plain_fir(x: Tensor, taps: Tensor, pad: tuple[int, int]) -> Tensor:
    """Sum over taps in loops: y[i, j] = sum_ab taps[a] taps[b] x[i - a, j - b], zero outside."""
    low, high = pad
    x = F.pad(x, (low, high, low, high))
    size = len(taps)
    height, width = x.shape[2] - size + 1, x.shape[3] - size + 1
    y = x.new_zeros(*x.shape[:2], height, width)
    for a, b in itertools.product(range(size), repeat=2):
        top, left = size - 1 - a, size - 1 - b
        y = y + taps[a] * taps[b] * x[:, :, top : top + height, left : left + width]
    return y


def stuffed(x: Tensor) -> Tensor:
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def plain_modulated(
    x: Tensor, weight: Tensor, scales: Tensor, *, demodulate: bool, up: bool = False
) -> Tensor:
    """One weight for every sample, normalised explicitly, by a grouped convolution."""
    n, outputs, inputs, kernel = len(x), *weight.shape[:3]
    own = weight[None] * scales[:, None, :, None, None]
    if demodulate:
        own = own / (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    x = stuffed(x) if up else x
    flat = x.reshape(1, n * inputs, *x.shape[2:])
    # zero stuffing puts the pixels first: the kernel's centre and the filter's give one pixel back
    y = F.conv2d(
        F.pad(flat, (2, 2, 2, 2)) if up else flat,
        own.reshape(n * outputs, inputs, kernel, kernel),
        groups=n,
        padding=0 if up else kernel // 2,
    )
    y = y.reshape(n, outputs, *y.shape[2:])
    if not up:
        return y
    taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
    return plain_fir(y[:, :, :-1, :-1], 2 * taps, (1, 1))


def plain_activate(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def plain_linear(layer: layers.EqualLinear, x: Tensor) -> Tensor:
    y = x @ layer.weight.T * (layer.lr_scale / math.sqrt(x.shape[1]))
    return y + (0 if layer.bias is None else layer.bias * layer.lr_scale)


def plain_unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def plain_conv(conv: layers.ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    weight = conv.weight / math.sqrt(conv.weight[0].numel())
    scales = plain_linear(conv.to_scales, style)
    return plain_modulated(x, weight, scales, demodulate=conv.demodulate, up=conv.up)


def plain_generator(g: StyleGAN2Generator, noise: Tensor, condition: Tensor | None) -> Tensor:
    w = plain_unit(noise)
    if g.mapping.embed is not None and condition is not None:
        one_hot = torch.eye(5, dtype=noise.dtype)
        rows = one_hot[condition] if condition.dtype == torch.int64 else condition
        w = torch.cat((w, plain_unit(plain_linear(g.mapping.embed, rows))), dim=1)
    for layer in g.mapping.layers:
        w = plain_activate(plain_linear(layer, w))
    x, image = g.synthesis.constant.expand(len(noise), -1, -1, -1), None
    taps = torch.tensor([1, 3, 3, 1], dtype=noise.dtype) / 8
    for place, conv in enumerate(g.synthesis.convs):
        x = plain_conv(conv.conv, x, w) + conv.noise_weight * conv.pixel_noise_1HW
        x = plain_activate(x + conv.bias[:, None, None])
        if place % 2 == 0:
            rgb = g.synthesis.to_rgb[place // 2]
            own = plain_conv(rgb.conv, x, w) + rgb.bias[:, None, None]
            image = own if image is None else own + plain_fir(stuffed(image), 2 * taps, (2, 1))
    assert image is not None
    return image


def plain_critic(d: StyleGAN2Critic, x: Tensor, condition: Tensor | None) -> Tensor:
    taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8

    def conv(layer: layers.EqualConv2d, x: Tensor) -> Tensor:
        weight = layer.weight / math.sqrt(layer.weight[0].numel())
        kernel = weight.shape[-1]
        if layer.down:
            x = plain_fir(x, taps, (1, 1) if kernel == 1 else (2, 2))
        y = F.conv2d(x, weight, padding=0 if layer.down else kernel // 2)
        y = y[:, :, ::2, ::2] if layer.down else y
        y = y if layer.bias is None else y + layer.bias[:, None, None]
        return plain_activate(y) if layer.activated else y

    x = conv(d.from_rgb, x)
    for block in d.blocks:
        y = conv(block.conv1, conv(block.conv0, x))
        x = y if block.skip is None else (y + conv(block.skip, x)) / math.sqrt(2)
    if d.config.minibatch_group:
        x = plain_stddev(x, d.config.minibatch_group)
    h = plain_activate(plain_linear(d.hidden, conv(d.last_conv, x).flatten(1)))
    scores = plain_linear(d.score, h)
    if d.mapping is None or condition is None:
        return scores[:, 0]
    rows = torch.eye(5, dtype=x.dtype)[condition] if condition.ndim == 1 else condition
    assert d.mapping.embed is not None
    c = plain_unit(plain_linear(d.mapping.embed, rows))
    for layer in d.mapping.layers:
        c = plain_activate(plain_linear(layer, c))
    return (scores * c).sum(dim=1) / math.sqrt(c.shape[1])


def plain_stddev(x: Tensor, group: int) -> Tensor:
    """For every sample, over the samples that share its remainder modulo the number of groups."""
    n = len(x)
    groups = n // group
    planes = []
    for i in range(n):
        members = torch.stack([x[j] for j in range(n) if j % groups == i % groups])
        deviation = ((members - members.mean(0)).square().mean(0) + 1e-8).sqrt()
        planes.append(deviation.mean().expand(1, 1, *x.shape[2:]))
    return torch.cat((x, torch.cat(planes)), dim=1)


# pieces


def test_resampling_against_loops() -> None:
    x = normal(2, 3, 6, 8)
    taps = fir.taps_of().double()
    torch.testing.assert_close(taps, torch.tensor([1, 3, 3, 1]).double() / 8)
    torch.testing.assert_close(fir.upsample(x, taps), plain_fir(stuffed(x), 2 * taps, (2, 1)))
    torch.testing.assert_close(fir.downsample(x, taps), plain_fir(x, taps, (1, 1))[:, :, ::2, ::2])
    skewed = fir.taps_of((1, 2, 4, 8, 3, 5)).double()  # of another length, and not symmetric
    torch.testing.assert_close(fir.smooth(x, skewed, pad=3), plain_fir(x, skewed, (3, 3)))
    down = plain_fir(x, skewed, (2, 2))[:, :, ::2, ::2]
    torch.testing.assert_close(fir.downsample(x, skewed), down)
    up = plain_fir(stuffed(x), 2 * skewed, (3, 2))
    torch.testing.assert_close(fir.upsample(x, skewed), up)


def test_resampling_keeps_a_constant() -> None:
    x, taps = torch.full((1, 1, 8, 8), 3.0), fir.taps_of()
    assert (fir.upsample(x, taps)[:, :, 1:-1, 1:-1] - 3).abs().max() < 1e-6
    assert (fir.downsample(x, taps)[:, :, 1:-1, 1:-1] - 3).abs().max() < 1e-6


def test_convolutions_that_resample_stay_where_the_images_are() -> None:
    """With a kernel that is 1 at its centre they are the plain resampling: nothing is shifted."""
    x, taps = normal(2, 2, 6, 4), fir.taps_of().double()
    centre = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    centre[0, 0, 1, 1] = centre[1, 1, 1, 1] = 1
    torch.testing.assert_close(layers.conv_up(x, centre, taps), fir.upsample(x, taps))
    torch.testing.assert_close(layers.conv_down(x, centre, taps), fir.downsample(x, taps))


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("kernel", "demodulate"), [(3, True), (3, False), (1, False)])
def test_modulated_convolution_against_a_weight_per_sample(
    kernel: int, demodulate: bool, up: bool
) -> None:
    if up and kernel == 1:
        return
    conv = layers.ModulatedConv2d(3, 4, kernel, 5, demodulate=demodulate, up=up).double()
    awake(conv)
    x, style = normal(2, 3, 6, 4, leaf=True), normal(2, 5, leaf=True)
    ours, theirs = conv(x, style), plain_conv(conv, x, style)
    torch.testing.assert_close(ours, theirs)
    cotangent = normal(*ours.shape)
    inputs = [x, style, *conv.parameters()]
    for a, b in zip(
        torch.autograd.grad(ours, inputs, cotangent),
        torch.autograd.grad(theirs, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("rows", "group", "used"), [(6, 3, 3), (6, 4, 3), (5, 4, 1), (4, 32, 4)])
def test_minibatch_stddev_against_loops(rows: int, group: int, used: int) -> None:
    x = normal(rows, 3, 2, 5)
    torch.testing.assert_close(layers.minibatch_stddev(x, group), plain_stddev(x, used))


def test_activation() -> None:
    x, bias = normal(3, 4, 2), normal(4)
    expected = plain_activate(x + bias[:, None])
    torch.testing.assert_close(layers.activate(x, bias), expected)
    torch.testing.assert_close(leaky_relu(x), torch.where(x > 0, x, 0.2 * x))
    assert torch.equal(LeakyReLU()(x), leaky_relu(x))
    y = layers.activate(torch.randn(1000, 100))
    assert y.square().mean().item() == pytest.approx(1.04, abs=0.02)  # (1 + 0.2^2) / 2 * 2


WEIGHT = (2, 2, 3, 3)
PIECES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "upsample": (lambda x: fir.upsample(x, fir.taps_of()), [(1, 2, 2, 3)]),
    "downsample": (lambda x: fir.downsample(x, fir.taps_of()), [(1, 2, 4, 2)]),
    "smooth": (lambda x: fir.smooth(x, fir.taps_of(), pad=2), [(1, 1, 3, 2)]),
    "modulated_conv": (
        lambda x, w, s: layers.modulated_conv(x, w, s, layers.demodulation(w, s)),
        [(2, 2, 3, 2), WEIGHT, (2, 2)],
    ),
    "modulated_conv_up": (
        lambda x, w, s: layers.modulated_conv(x, w, s, layers.demodulation(w, s), fir.taps_of()),
        [(1, 2, 2, 2), WEIGHT, (1, 2)],
    ),
    "conv_down": (lambda x, w: layers.conv_down(x, w, fir.taps_of()), [(1, 2, 4, 4), WEIGHT]),
    "minibatch_stddev": (lambda x: layers.minibatch_stddev(x, 2), [(4, 2, 1, 2)]),
    "activate": (layers.activate, [(2, 3, 2), (3,)]),
    "normalise": (layers.normalise, [(2, 3)]),
}


@pytest.mark.parametrize("name", PIECES)
def test_first_and_second_derivatives(name: str) -> None:
    function, shapes = PIECES[name]
    inputs = [normal(*shape, leaf=True) for shape in shapes]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


# equalised learning rate


def test_equalised_layers_keep_the_scale() -> None:
    x = torch.randn(4000, 37)
    for lr_scale in (1.0, 0.01):
        linear = layers.EqualLinear(37, 51, lr_scale=lr_scale)
        assert linear.weight.std().item() == pytest.approx(1 / lr_scale, rel=0.05)
        assert linear(x).std().item() == pytest.approx(1, rel=0.05)
    # a step of the parameter moves the output lr_scale as much as one of an ordinary layer
    slow = layers.EqualLinear(37, 51, lr_scale=0.01, initial_bias=1.0)
    assert slow.bias is not None and slow.bias[0] == 100
    torch.testing.assert_close(slow(torch.zeros(1, 37)), torch.ones(1, 51))
    conv = layers.EqualConv2d(11, 23, 3, activated=False)
    y = conv(torch.randn(40, 11, 9, 9))[:, :, 1:-1, 1:-1]
    assert conv.weight.std().item() == pytest.approx(1, rel=0.05)
    assert y.std().item() == pytest.approx(1, rel=0.05)
    demodulated = layers.ModulatedConv2d(64, 23, 3, 5)
    style = 3 * torch.randn(40, 5)
    y = demodulated(torch.randn(40, 64, 9, 9), style)[:, :, 1:-1, 1:-1]
    assert y.std().item() == pytest.approx(1, rel=0.05)


# generator


@CONDITIONS
def test_generator_against_the_plain_form(condition: Condition) -> None:
    generator = StyleGAN2Generator(config(condition=condition)).double()
    awake(generator)
    noise, c = normal(3, 6), given(condition, 3, torch.float64)
    torch.testing.assert_close(generator(noise, c), plain_generator(generator, noise, c))


@pytest.mark.parametrize("resolution", [8, 32, 64, 128, 256])
def test_every_resolution(resolution: int) -> None:
    settings = config(resolution=resolution, width_base=1024, max_width=6)
    generator, critic = StyleGAN2Generator(settings), StyleGAN2Critic(settings)
    images, features = generator.with_features(torch.randn(2, 6), at=(4, resolution))
    assert images.shape == (2, 3, resolution, resolution)
    assert features[resolution].shape[1] == generator.feature_channels[resolution]
    assert features[4].shape == (2, 6, 4, 4) and critic(images).shape == (2,)
    assert generator.synthesis.num_styles == 2 * math.log2(resolution) - 2
    assert len(generator.synthesis.convs) == len(generator.synthesis.noise_sides)


def test_cifar_settings() -> None:
    settings = StyleGAN2Config.cifar(LABELS)
    assert [settings.width(side) for side in settings.sides] == [512] * 4
    assert (settings.mapping_layers, settings.minibatch_group) == (2, 32)
    assert (settings.style_mixing, settings.path_length) == (0, 0)
    assert settings.critic_architecture == "orig" and settings.condition is LABELS
    with torch.device("meta"):
        generator, critic = StyleGAN2Generator(settings), StyleGAN2Critic(settings)
        assert generator.synthesis.num_styles == 8
        assert critic(torch.zeros(64, 3, 32, 32), torch.zeros(64).long()).shape == (64,)


def test_pixel_noise_is_fixed_given_or_drawn_and_the_same_again() -> None:
    generator = StyleGAN2Generator(config())
    awake(generator)
    noise = torch.randn(3, 6)
    state = torch.get_rng_state()
    fixed = generator(noise)
    assert torch.equal(generator(noise), fixed)
    given_noise = [conv.pixel_noise_1HW.expand(3, -1, -1, -1) for conv in generator.synthesis.convs]
    assert torch.equal(generator(noise, pixel_noise=given_noise), fixed)

    def drawn(seed: int) -> Tensor:
        return generator(noise, pixel_noise=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(torch.get_rng_state(), state)  # no other source of randomness
    assert [tuple(n.shape) for n in given_noise] == [
        (3, 1, side, side) for side in generator.synthesis.noise_sides
    ]


def test_truncation_and_the_average_style() -> None:
    generator = StyleGAN2Generator(config())
    noise = torch.randn(2000, 6)
    w_NW = generator.mapping(noise)
    for _ in range(3000):
        generator.track(w_NW.mean(dim=0))
    torch.testing.assert_close(generator.average_W, w_NW.mean(dim=0).detach(), rtol=0, atol=0.02)
    full, half, none = (generator.styles(noise[:3], truncation=t) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (full + none) / 2)
    torch.testing.assert_close(none, generator.average_W.expand(3, 6, 5))
    assert torch.equal(generator(noise[:3], truncation=1.0), generator(noise[:3]))
    assert not torch.allclose(generator(noise[:3], truncation=0.5), generator(noise[:3]))
    assert "average_W" in generator.state_dict()


def test_style_mixing() -> None:
    first, second = torch.zeros(5, 8, 2), torch.ones(5, 8, 2)
    draws = torch.tensor([[0.0, 0.0], [0.0, 0.999], [0.89, 0.5], [0.91, 0.0], [0.3, 0.15]])
    mixed = mix_styles(first, second, draws, 0.9)[..., 0]
    assert [int(row.sum()) for row in mixed] == [7, 1, 4, 0, 6]  # from layers 1, 7, 4, -, 2 on
    assert (mixed.diff(dim=1) >= 0).all()
    generator = StyleGAN2Generator(config(style_mixing=0.5))
    one, other = torch.randn(2, 2, 6).unbind()
    styles = generator.styles(one, second_NZ=other, mixing_N2=torch.tensor([[0.4, 0], [0.6, 0]]))
    torch.testing.assert_close(styles[0, 1:], generator.styles(other)[0, 1:])
    torch.testing.assert_close(styles[1], generator.styles(one)[1])


def test_path_length_by_hand() -> None:
    a_WP = normal(4, 3 * 2 * 2, leaf=True)
    styles, noise = normal(3, 2, 4, leaf=True), normal(3, 3, 2, 2)
    images = (styles.sum(dim=1) @ a_WP).reshape(3, 3, 2, 2)
    penalty, length = PathLength().double()(images, styles, noise)
    # both styles of an image move it alike, by y A^T with y of variance 1 / pixels
    lengths = (noise.flatten(1) / 2 @ a_WP.T).norm(dim=1)
    torch.testing.assert_close(length, lengths.mean().detach())
    expected = (lengths - 0.01 * lengths.mean().detach()).square().mean()
    torch.testing.assert_close(penalty, expected)
    (ours,), (theirs,) = (torch.autograd.grad(p, a_WP) for p in (penalty, expected))
    torch.testing.assert_close(ours, theirs)


def test_path_length_of_a_generator_is_finite_and_its_mean_is_kept() -> None:
    generator, path = StyleGAN2Generator(config()), PathLength()
    styles = generator.styles(torch.randn(3, 6))
    images, _ = generator.synthesis(styles)
    penalty, length = path(images, styles, torch.randn_like(images))
    penalty.backward()
    assert path.mean == 0
    path.track(length)
    torch.testing.assert_close(path.state_dict()["mean"], 0.01 * length)
    flat = torch.zeros_like(images)
    styles = generator.styles(torch.randn(3, 6))
    path(generator.synthesis(styles)[0], styles, flat)[0].backward()  # length 0: no NaN
    gradients = [p.grad for p in generator.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


# critic


@CONDITIONS
@pytest.mark.parametrize("architecture", ["orig", "resnet"])
@pytest.mark.parametrize("group", [0, 2])
def test_critic_against_the_plain_form(condition: Condition, architecture: Any, group: int) -> None:
    settings = config(condition=condition, critic_architecture=architecture, minibatch_group=group)
    critic = StyleGAN2Critic(settings).double()
    awake(critic)
    x, c = normal(4, 3, 16, 16), given(condition, 4, torch.float64)
    torch.testing.assert_close(critic(x, c), plain_critic(critic, x, c))
    # only without minibatch statistics a score is that of one sample
    alone = critic(x[:1], None if c is None else c[:1])
    assert torch.allclose(critic(x, c)[:1], alone) == critic.per_sample == (group == 0)


@pytest.mark.parametrize("architecture", ["orig", "resnet"])
@pytest.mark.parametrize("group", [0, 2])
def test_penalty_of_a_whole_critic(architecture: Any, group: int) -> None:
    """Gradients of R1 to weights of every kind against numerical ones."""
    settings = config(
        resolution=8, max_width=2, critic_architecture=architecture, minibatch_group=group,
        condition=LABELS,
    )  # fmt: skip
    critic = StyleGAN2Critic(settings).double()
    awake(critic)
    x, labels = normal(2, 3, 8, 8), torch.tensor([1, 3])
    names = ["from_rgb.weight", "blocks.0.conv0.bias", "last_conv.weight", "score.weight"]
    names += ["blocks.0.conv1.weight", "mapping.layers.1.weight"]
    weights = [critic.get_parameter(name) for name in names]

    def penalty(*_: Tensor) -> Tensor:
        return zero_centred_penalty(critic, x, gamma=2.0, condition=labels)

    assert gradcheck(penalty, weights, atol=1e-6)


def test_critic_is_twice_differentiable_in_its_images() -> None:
    settings = config(resolution=8, max_width=2, minibatch_group=2)
    critic = StyleGAN2Critic(settings).double()
    corner = normal(2, 1, 2, 2, leaf=True)
    rest = normal(2, 3, 8, 8)

    def scores(corner: Tensor) -> Tensor:
        return critic(rest + F.pad(corner, (3, 3, 3, 3, 1, 1)))

    assert gradcheck(scores, (corner,))
    assert gradgradcheck(scores, (corner,))


def test_the_condition_reaches_the_scores() -> None:
    critic = StyleGAN2Critic(config(condition=LABELS))
    x = torch.randn(1, 3, 16, 16).expand(5, -1, -1, -1)
    assert critic(x, torch.arange(5)).unique().numel() == 5


def test_under_autocast() -> None:
    settings = config(condition=LABELS, minibatch_group=2)
    generator, critic = StyleGAN2Generator(settings), StyleGAN2Critic(settings)
    noise, labels = torch.randn(4, 6), torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(noise, labels)
        scores = critic(images.float(), labels)
    scores.float().sum().backward()
    torch.testing.assert_close(images.float(), generator(noise, labels), rtol=0.1, atol=0.15)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters())


# bad input

G, D = StyleGAN2Generator(config(condition=LABELS)), StyleGAN2Critic(config())
Z, X, Y = torch.zeros(2, 6), torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: config(resolution=24), ConfigError, "StyleGAN2: resolution 24, .* 16, 32, 64"),
        (lambda: config(resolution=512), ConfigError, "resolution 512, .* 128, 256$"),
        (lambda: config(critic_architecture="resent"), ConfigError, "did you mean resnet"),
        (lambda: config(width_base=15), ConfigError, "width_base 15 .* 16 or more"),
        (lambda: config(mapping_layers=0), ConfigError, "mapping_layers must be at least 1"),
        (lambda: config(style_mixing=1.5), ConfigError, r"style_mixing 1.5 must lie in \[0, 1\]"),
        (lambda: G(Z), ArgumentError, "condition is missing"),
        (lambda: D(X, Y), ArgumentError, "condition is unexpected"),
        (lambda: G(Z, Y.int()), ArgumentError, "int32"),
        (lambda: G(Z.long(), Y), ArgumentError, "noise: torch.int64"),
        (lambda: G(Z, Y, pixel_noise=[X]), ArgumentError, r"pixel_noise: .*\(2, 1, 4, 4\)"),
        (lambda: G.with_features(Z, Y, at=(32,)), ArgumentError, "at 32 pixels: .* 4, 8, 16"),
        (lambda: G.synthesis(torch.zeros(2, 5, 5)), ArgumentError, r"expected \[N, 6, 5\]"),
        (lambda: D(X[:, :1]), ArgumentError, r"\(2, 1, 16, 16\), expected .*\[N, 3, 16, 16\]"),
        (
            lambda: mix_styles(torch.zeros(2, 6, 5), torch.zeros(2, 6, 5), torch.zeros(2), 0.5),
            ArgumentError,
            r"draws \(2,\)",
        ),
        (lambda: PathLength()(X, X, X[:1]), ArgumentError, "normal: "),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
