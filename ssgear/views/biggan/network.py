"""BigGAN's generator, conditioned on a real image's features, by the names of published weights.

    generator = load_biggan(Path("icgan_biggan_imagenet_res256.pth"))
    images = generator(noise_NZ, features_NF)         # [N, 3, R, R] in [-1, 1]

Brock et al. 2018 (arXiv 1809.11096) with the conditioning of Casanova et al. 2021 (arXiv
2109.05070): residual blocks that double the side, noise in chunks (one for the first layer, one for
every block), batch normalisation whose gain and bias are linear in a block's chunk and the embedded
features, and one layer of self-attention. Spectral normalisation is folded into the weights at
loading: W / ||W v||, v = W^T u / ||W^T u||, of the stored u. Written from the papers; never checked
against published weights. Shapes: N images, Z noise, F features, C channels, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.errors import CheckpointError, refusing
from ssgear.kernels import philox
from ssgear.models import saved

BOTTOM = 4
"""Side of what the first layer makes."""
BLOCKS = (4, 5, 6)
"""Numbers of blocks that weights were published for: images of 64, 128 and 256 pixels."""
_IGNORED = re.compile(r"(\.(sv|u)\d+|\.num_batches_tracked|\.accumulation_counter)$|^shared\.")
"""What a file holds beside weights: spectral norms' state, and an embedding of classes."""


@dataclass(frozen=True, kw_only=True)
class BigGANConfig:
    """What the shapes of a file say."""

    noise: tuple[int, int]
    """Chunks of the noise (one more than there are blocks), and numbers of each."""
    features: int
    """Width of the features of a real image."""
    embedded: int
    """Width that they are embedded to; 0: they are not."""
    channels: tuple[int, ...]
    """Channels of the first layer and after every block."""
    attention: int | None
    """Block that self-attention follows."""

    @property
    def resolution(self) -> int:
        """Return the side of the images in pixels."""
        return BOTTOM << (len(self.channels) - 1)


class ConditionalNorm(nn.Module):
    """Batch normalisation with running statistics, gain 1 + G y and bias B y of a condition y."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, condition: int) -> None:
        """Start with the statistics of unit noise."""
        super().__init__()
        self.gain = nn.Linear(condition, channels, bias=False)
        self.bias = nn.Linear(condition, channels, bias=False)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, hidden_NCHW: Tensor, condition_NY: Tensor) -> Tensor:
        """Return the normalised values under each row's gain and bias."""
        normed = F.batch_norm(hidden_NCHW, self.stored_mean, self.stored_var)
        gain_NC, bias_NC = 1 + self.gain(condition_NY), self.bias(condition_NY)
        return cast(Tensor, normed * gain_NC[:, :, None, None] + bias_NC[:, :, None, None])


class Block(nn.Module):
    """Norm, ReLU, twice the side, convolution, norm, ReLU, convolution; plus a shortcut."""

    def __init__(self, channels: int, out_channels: int, condition: int) -> None:
        """Build the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_sc = nn.Conv2d(channels, out_channels, 1)
        self.bn1 = ConditionalNorm(channels, condition)
        self.bn2 = ConditionalNorm(out_channels, condition)

    def forward(self, hidden_NCHW: Tensor, condition_NY: Tensor) -> Tensor:
        """Return [N, C', 2 H, 2 W]."""
        h = F.interpolate(F.relu(self.bn1(hidden_NCHW, condition_NY)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), condition_NY)))
        return cast(Tensor, h + self.conv_sc(F.interpolate(hidden_NCHW, scale_factor=2)))


class SelfAttention(nn.Module):
    """Each place looks at all others at half the side (Zhang et al. 2018, arXiv 1805.08318)."""

    def __init__(self, channels: int) -> None:
        """Build the layers; at gamma = 0 it changes nothing."""
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.o = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_NCHW: Tensor, condition_NY: Tensor) -> Tensor:
        """Return the same shape; the condition is not looked at."""
        query = self.theta(hidden_NCHW).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.phi(hidden_NCHW), 2).flatten(2).transpose(1, 2)
        value = F.max_pool2d(self.g(hidden_NCHW), 2).flatten(2).transpose(1, 2)
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        seen = seen.transpose(1, 2).reshape(len(seen), -1, *hidden_NCHW.shape[2:])
        return cast(Tensor, self.gamma * self.o(seen) + hidden_NCHW)


class PlainNorm(nn.Module):
    """Batch normalisation with running statistics."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int) -> None:
        """Start with the statistics of unit noise."""
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, hidden_NCHW: Tensor) -> Tensor:
        """Return the normalised values."""
        return F.batch_norm(hidden_NCHW, self.stored_mean, self.stored_var, self.gain, self.bias)


class BigGANGenerator(nn.Module):
    """Noise [N, Z] and features [N, F] of length 1 to images."""

    def __init__(self, config: BigGANConfig) -> None:
        """Build the network that a file's shapes describe."""
        super().__init__()
        self.config = config
        self.resolution = config.resolution
        chunks, self.chunk = config.noise
        self.noise_dim = chunks * self.chunk
        condition = self.chunk + (config.embedded or config.features)
        if config.embedded:
            self.shared_feat = nn.Linear(config.features, config.embedded)
        first = config.channels[0]
        self.linear = nn.Linear(self.chunk, first * BOTTOM**2)
        self.blocks = nn.ModuleList()
        for place, (wide, out) in enumerate(
            zip(config.channels[:-1], config.channels[1:], strict=True)
        ):
            layers: list[nn.Module] = [Block(wide, out, condition)]
            if place == config.attention:
                layers.append(SelfAttention(out))
            self.blocks.append(nn.ModuleList(layers))
        last = config.channels[-1]
        self.output_layer = nn.Sequential(
            PlainNorm(last), nn.ReLU(), nn.Conv2d(last, 3, 3, padding=1)
        )

    def forward(self, noise_NZ: Tensor, features_NF: Tensor) -> Tensor:
        """Return images [N, 3, R, R] in [-1, 1]."""
        embedded = self.shared_feat(features_NF) if self.config.embedded else features_NF
        first, *others = torch.chunk(noise_NZ, self.config.noise[0], dim=1)
        h = self.linear(first).unflatten(1, (-1, BOTTOM, BOTTOM))
        for layers, chunk in zip(self.blocks, others, strict=True):
            condition_NY = torch.cat((embedded, chunk), dim=1)
            for layer in cast(nn.ModuleList, layers):
                h = layer(h, condition_NY)
        return torch.tanh(self.output_layer(h))


def truncated_noise(seeds: Sequence[int], size: int, bound: float | None) -> Tensor:
    """Return noise [N, Z], float32, each row of its seed: normal, or normal within +-bound.

    The truncation trick: the same distribution as drawing again whatever lies outside.
    """
    key, rows = philox.derive_key("icgan"), torch.tensor(seeds)
    if bound is None:
        return philox.normal(key, rows, size)
    low, high = torch.special.ndtr(torch.tensor([-bound, bound], dtype=torch.float64))
    share = (philox.uniform(key, rows, size).double() + 2.0**-25) * (high - low) + low
    cut: Tensor = torch.special.ndtri(share).clamp(-bound, bound)
    return cut.float()


def load_biggan(path: Path) -> tuple[BigGANGenerator, str]:
    """Return the generator of --weights, in eval mode, and a digest of its file.

    The file is safetensors, or a pickle of plain tensors; a state dict in the published names.

    Raises:
        CheckpointError: the file is not there, or holds something else.
    """
    state, digest = read_state(path, "--weights")
    plain = {_own_name(name): folded(state, name) for name in state if not _IGNORED.search(name)}
    wrong = f"--weights: {path}: these are not weights of an IC-GAN with a BigGAN backbone"
    with (
        refusing((ValueError, IndexError), lambda error: CheckpointError(f"{wrong}: {error}")),
        refusing(KeyError, lambda error: CheckpointError(f"{wrong}: {error.args[0]} is missing")),
    ):
        config = _config_of(plain)
    with torch.device("meta"):
        generator = BigGANGenerator(config)
    problem = saved.misfit(generator, plain)
    if problem is not None:
        raise CheckpointError(f"{wrong}: {problem}")
    wild = [name for name, value in plain.items() if not bool(torch.isfinite(value).all())]
    if wild:
        raise CheckpointError(f"{wrong}: {wild[0]} holds values that are not finite")
    generator.load_state_dict(plain, assign=True)
    return generator.eval().requires_grad_(False), digest


def read_state(path: Path, option: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a published file, float32 and without `module.`, and its digest."""
    wanted = "name a safetensors file or a pickle of plain weights (a state dict)"
    state, data = saved.read_plain(path, option=option, wanted=wanted)
    named = {name.removeprefix("module."): value for name, value in state.items()}
    wide = {name: v.float() if v.is_floating_point() else v for name, v in named.items()}
    return wide, saved.digest_of(data)


def folded(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor; a weight whose spectral norm is kept beside it, divided by that norm."""
    value = state[name]
    u = state.get(f"{name.removesuffix('.weight')}.u0") if name.endswith(".weight") else None
    if u is None or value.ndim < 2 or u.numel() != len(value):
        return value  # what does not belong together is named with its shape afterwards
    matrix = value.flatten(1)
    direction = F.normalize(u.flatten() @ matrix, dim=0, eps=1e-12)
    norm: Tensor = torch.linalg.vector_norm(matrix @ direction)
    return value / norm


def _own_name(name: str) -> str:
    """Return our name of a published one; norms were kept in three ways."""
    name = name.replace(".bn.running_", ".stored_").replace(".bn.stored_", ".stored_")
    return name.replace("output_layer.0.bn.weight", "output_layer.0.gain").replace(
        "output_layer.0.bn.bias", "output_layer.0.bias"
    )


def _config_of(state: Mapping[str, Tensor]) -> BigGANConfig:
    """Return the settings that shapes say; `KeyError` names what is missing."""
    count = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if count not in BLOCKS:
        raise ValueError(f"it has {count} blocks, not 4, 5 or 6 (images of 64, 128, 256 pixels)")
    convs = [state[f"blocks.{place}.0.conv1.weight"] for place in range(count)]
    channels = (convs[0].shape[1], *(conv.shape[0] for conv in convs))
    chunk = state["linear.weight"].shape[1]
    condition = state["blocks.0.0.bn1.gain.weight"].shape[1]
    embedding = state.get("shared_feat.weight")
    embedded = 0 if embedding is None else embedding.shape[0]
    if embedded and condition > chunk + embedded:
        raise ValueError("it takes a class besides the image; use the one without classes")
    if condition <= chunk:
        raise ValueError("its norms take no features of an image")
    attended = [p for p in range(count) if f"blocks.{p}.1.theta.weight" in state]
    return BigGANConfig(
        noise=(count + 1, chunk),
        features=condition - chunk if embedding is None else embedding.shape[1],
        embedded=embedded,
        channels=channels,
        attention=attended[0] if attended else None,
    )
