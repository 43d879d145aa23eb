"""The generator of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), conditional or not.

    generator = StyleGAN2Generator(StyleGAN2Config.cifar(Condition(kind="label", size=10)))
    images = generator(noise_NZ, labels_N)                         # about [-1, 1], not clipped
    images, features = generator.with_features(noise_NZ, labels_N, at=(8, 16))

Mapping network, modulated convolutions with noise added to every one, images summed over the
resolutions (the paper's skip generator). What may be random is handed in: noise, and `pixel_noise`.
Shapes: N rows, Z noise numbers, W style numbers, L styles of an image, C channels, R pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.models.gan import fir
from ssgear.models.gan.conditions import Condition, check_feature_sides, check_noise
from ssgear.models.gan.stylegan2_config import START, StyleGAN2Config
from ssgear.models.gan.stylegan2_layers import EqualLinear, ModulatedConv2d, activate, normalise
from ssgear.models.gan.stylegan2_styles import mix_styles

MAPPING_LR = 0.01
"""Learning rate of the mapping network relative to the rest."""
AVERAGE_DECAY = 0.998
"""Of the running mean of the styles, per step."""

PixelNoise = Sequence[Tensor] | torch.Generator | None
"""One [N, 1, r, r] for every layer, a generator to draw them from, or None: the layers' own."""


class Mapping(nn.Module):
    """Noise [N, Z] and a condition to styles [N, W]; without noise it maps the condition alone."""

    def __init__(self, noise_dim: int, condition: Condition, style_dim: int, layers: int) -> None:
        """Build `layers` layers of width `style_dim`; `noise_dim` 0 means no noise."""
        super().__init__()
        self.noise_dim, self.condition = noise_dim, condition
        self.embed = EqualLinear(condition.size, style_dim) if condition else None
        widths = [noise_dim + (style_dim if condition else 0)] + [style_dim] * layers
        self.layers = nn.Sequential(
            *(
                EqualLinear(width, style_dim, activated=True, lr_scale=MAPPING_LR)
                for width in widths[:-1]
            )
        )

    def forward(self, noise_NZ: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Return styles [N, W]."""
        parts = [] if noise_NZ is None else [normalise(noise_NZ)]
        if self.embed is not None and condition is not None:
            rows = self.condition.rows(condition, self.embed.weight.dtype)
            parts.append(normalise(self.embed(rows)))
        styles_NW: Tensor = self.layers(torch.cat(parts, dim=1))
        return styles_NW


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, noise for every pixel, activation."""

    pixel_noise_1HW: Tensor

    def __init__(
        self, inputs: int, outputs: int, style_dim: int, side: int, *, up: bool = False
    ) -> None:
        """Build a layer whose output has `side` pixels; the noise has no weight at first."""
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, up=up)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("pixel_noise_1HW", torch.randn(1, side, side))

    def forward(self, x_NCHW: Tensor, style_NW: Tensor, pixel_noise: Tensor | None) -> Tensor:
        """Return the next feature map; `pixel_noise` [N, 1, r, r] replaces the layer's own."""
        y = self.conv(x_NCHW, style_NW)
        noise = self.pixel_noise_1HW if pixel_noise is None else pixel_noise
        return activate(y + (noise * self.noise_weight).to(y.dtype), self.bias)


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to an image, without normalisation."""

    def __init__(self, inputs: int, style_dim: int) -> None:
        """Build the layer."""
        super().__init__()
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x_NCHW: Tensor, style_NW: Tensor) -> Tensor:
        """Return [N, 3, H, W]."""
        y: Tensor = self.conv(x_NCHW, style_NW)
        return y + self.bias.to(y.dtype)[:, None, None]


class Synthesis(nn.Module):
    """Styles [N, L, W] to images: layers at 4 pixels, then two more at every doubling."""

    taps_T: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        """Build the layers; every image starts from one learned constant."""
        super().__init__()
        self.config = config
        width, style_dim = config.width(START), config.style_dim
        self.constant = nn.Parameter(torch.randn(width, START, START))
        self.convs = nn.ModuleList([StyledConv(width, width, style_dim, START)])
        self.to_rgb = nn.ModuleList([ToRGB(width, style_dim)])
        for side in config.sides[1:]:
            width, before = config.width(side), config.width(side // 2)
            self.convs.append(StyledConv(before, width, style_dim, side, up=True))
            self.convs.append(StyledConv(width, width, style_dim, side))
            self.to_rgb.append(ToRGB(width, style_dim))
        self.register_buffer("taps_T", fir.taps_of(), persistent=False)

    @property
    def num_styles(self) -> int:
        """Number L of styles; a layer to RGB shares that of the convolution after it."""
        return 2 * len(self.to_rgb)

    @property
    def noise_sides(self) -> tuple[int, ...]:
        """Sides r of the noise [N, 1, r, r] that every convolution takes, in order."""
        return tuple(side for side in self.config.sides for _ in range(2))[1:]

    def forward(
        self, styles_NLW: Tensor, *, pixel_noise: PixelNoise = None, at: tuple[int, ...] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return images [N, 3, R, R] and the feature maps {r: [N, C, r, r]} at the sides `at`."""
        self._check(styles_NLW, at)
        rows = len(styles_NLW)
        noises = self._noises(pixel_noise, rows, styles_NLW)
        x_NCHW = self.constant.expand(rows, -1, -1, -1)
        image = x_NCHW.new_zeros(rows, 3, START // 2, START // 2)
        features, place = {}, 0
        for level, to_rgb in enumerate(self.to_rgb):
            for _ in range(2 if level else 1):
                x_NCHW = self.convs[place](x_NCHW, styles_NLW[:, place], noises[place])
                place += 1
            rgb = to_rgb(x_NCHW, styles_NLW[:, place])
            image = fir.upsample(image, self.taps_T) + rgb
            features[x_NCHW.shape[-1]] = x_NCHW
        return image, {side: features[side] for side in at}

    def _noises(self, given: PixelNoise, rows: int, like: Tensor) -> Sequence[Tensor | None]:
        if given is None:
            return [None] * len(self.convs)
        shapes = [(rows, 1, side, side) for side in self.noise_sides]
        if isinstance(given, torch.Generator):
            device = given.device
            drawn = [torch.randn(shape, generator=given, device=device) for shape in shapes]
            return [noise.to(like) for noise in drawn]
        found = [tuple(noise.shape) for noise in given]
        if found != shapes:
            raise ArgumentError(f"pixel_noise: shapes {found}, expected {shapes}")
        return given

    def _check(self, styles_NLW: Tensor, at: tuple[int, ...]) -> None:
        check_feature_sides(at, self.config.sides)
        shape = (self.num_styles, self.config.style_dim)
        if styles_NLW.shape[1:] != shape:
            raise ArgumentError(
                f"styles: {tuple(styles_NLW.shape)}, expected [N, {shape[0]}, {shape[1]}]"
            )


class StyleGAN2Generator(nn.Module):
    """Noise [N, Z] and a condition to images [N, 3, R, R], about in [-1, 1]."""

    average_W: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        """Build the network with weights drawn from torch's generator."""
        super().__init__()
        self.config = config
        self.noise_dim, self.resolution = config.noise_dim, config.resolution
        self.mapping = Mapping(
            config.noise_dim, config.condition, config.style_dim, config.mapping_layers
        )
        self.synthesis = Synthesis(config)
        self.register_buffer("average_W", torch.zeros(config.style_dim))

    @torch.no_grad()
    def track(self, mean_W: Tensor, decay: float = AVERAGE_DECAY) -> None:
        """Move the average, which truncation needs, towards the mean style of a batch [W]."""
        self.average_W.lerp_(mean_W.to(self.average_W), 1 - decay)

    @property
    def feature_channels(self) -> dict[int, int]:
        """Side -> channels of every intermediate feature map."""
        return {side: self.config.width(side) for side in self.config.sides}

    def styles(
        self,
        noise_NZ: Tensor,
        condition: Tensor | None = None,
        *,
        truncation: float = 1.0,
        second_NZ: Tensor | None = None,
        mixing_N2: Tensor | None = None,
    ) -> Tensor:
        """Return styles [N, L, W].

        Args:
            noise_NZ: Standard normal noise.
            condition: Labels int64 [N] or vectors [N, size], if the network is conditioned.
            truncation: Share psi of the distance to the average style that is kept; 1 keeps all.
            second_NZ: Noise of second styles, which later layers take in some of the images.
            mixing_N2: Uniform draws that say in which, and from which layer on.
        """
        self._check(noise_NZ, condition)
        styles_NLW = self._broadcast(self.mapping(noise_NZ, condition))
        if second_NZ is not None and mixing_N2 is not None:
            check_noise(second_NZ, self.noise_dim)
            second_NLW = self._broadcast(self.mapping(second_NZ, condition))
            styles_NLW = mix_styles(styles_NLW, second_NLW, mixing_N2, self.config.style_mixing)
        if truncation == 1:
            return styles_NLW
        average_W = self.average_W.to(styles_NLW.dtype)
        return average_W + (styles_NLW - average_W) * truncation

    def forward(
        self,
        noise_NZ: Tensor,
        condition: Tensor | None = None,
        *,
        truncation: float = 1.0,
        pixel_noise: PixelNoise = None,
    ) -> Tensor:
        """Return images; labels are int64 [N], vectors floating-point [N, size]."""
        styles_NLW = self.styles(noise_NZ, condition, truncation=truncation)
        images: Tensor = self.synthesis(styles_NLW, pixel_noise=pixel_noise)[0]
        return images

    def with_features(
        self,
        noise_NZ: Tensor,
        condition: Tensor | None = None,
        *,
        at: tuple[int, ...] = (),
        pixel_noise: PixelNoise = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return images and the feature maps {r: [N, C, r, r]} at the sides `at`."""
        styles_NLW = self.styles(noise_NZ, condition)
        both: tuple[Tensor, dict[int, Tensor]] = self.synthesis(
            styles_NLW, pixel_noise=pixel_noise, at=at
        )
        return both

    def _broadcast(self, style_NW: Tensor) -> Tensor:
        return style_NW[:, None].expand(-1, self.synthesis.num_styles, -1)

    def _check(self, noise_NZ: Tensor, condition: Tensor | None) -> None:
        check_noise(noise_NZ, self.noise_dim)
        self.config.condition.check(condition, len(noise_NZ))
