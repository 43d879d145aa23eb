"""Networks under an encoder: any classifier of timm without its head, and a few of our own.

Ours are `resnet_tiny` for CPUs, RotNet's `nin3` to `nin5`, `drlim`, and Exemplar-CNN's by their
layers. What timm's ResNets get: a stem for small images (3x3, stride 1, no pooling), a width of 16
with a 3x3 stem of stride 2, and group normalisation (Wu & He 2018, arXiv 1803.08494) in place of
batch normalisation. Weights are drawn from torch's generator; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssgear.errors import ConfigError, did_you_mean, refusing
from ssgear.models.encoders.drlim import NAME as DRLIM
from ssgear.models.encoders.drlim import DrlimNetwork
from ssgear.models.encoders.exemplar import EXAMPLE, ExemplarNetwork, is_spec, parse_spec
from ssgear.models.encoders.nin import NAMES as NIN
from ssgear.models.encoders.nin import NetworkInNetwork, is_nin

TINY = "resnet_tiny"
TINY_CHANNELS = (16, 32, 64, 256)
"""The last stage is wide: at 2 x 2 pixels it costs little, and a probe gains from its features."""
OWN = (TINY, *NIN, DRLIM)
"""Networks that are not timm's."""
REFUSALS = (AssertionError, RuntimeError, ValueError)
"""How networks refuse a size."""
SMALL_IMAGE = 64
"""Up to this side in pixels, `stem="auto"` means the stem for small images."""


def build_network(name: str, size: int, *, stem: str, norm: str) -> nn.Module:
    """Build a network that maps normalised [N, 3, size, size] to features [N, F]."""
    network = _own(name, stem, size) or _from_timm(name, size)
    if isinstance(network, ResNet):
        small = stem == "cifar" or (stem == "auto" and size <= SMALL_IMAGE)
        if small and name != TINY:
            _replace_stem(network, kernel=3, stride=1)
    elif stem == "cifar":
        raise ConfigError(f"--model.stem: cifar is for ResNets, not for {name}; use auto")
    if norm == "group":
        replace_batch_norm(network)
    check_patches(network, name, size)
    return network


def check_model(name: str) -> None:
    """Refuse a network that there is not."""
    if is_spec(name):
        parse_spec(name)
    elif name not in OWN and not timm.is_model(name):
        known = [*OWN, *timm.list_models()]
        raise ConfigError(
            f"--model.name: unknown model {name!r}{did_you_mean(name, known)}; "
            f"{', '.join(OWN)}, layers such as {EXAMPLE} and the classifiers of timm are known"
        )


def _own(name: str, stem: str, size: int) -> nn.Module | None:
    """Build a network of the package's own; None where that is none of their names."""
    if name == TINY:
        return _tiny(stem)
    if name == DRLIM:
        return DrlimNetwork(size)
    if is_spec(name):
        return ExemplarNetwork(parse_spec(name), name, size)
    return NetworkInNetwork(int(name[-1])) if is_nin(name) else None


def _from_timm(name: str, size: int) -> nn.Module:
    check_model(name)
    published = get_pretrained_cfg(name)
    sized: dict[str, Any] = (
        {"img_size": size} if published is not None and published.fixed_input_size else {}
    )
    with refusing(REFUSALS, lambda error: _cannot_take(name, size, error)):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **sized)
        except TypeError:  # a model of one size only, without img_size; `num_features_of` tries it
            return timm.create_model(name, pretrained=False, num_classes=0)


def num_features_of(network: nn.Module, name: str, size: int) -> int:
    """Return the width of the features, by running one blank image through the network."""
    training = network.training
    with torch.no_grad(), refusing(REFUSALS, lambda error: _cannot_take(name, size, error)):
        features = network.eval()(torch.zeros(1, 3, size, size))
    network.train(training)
    if features.ndim != 2:
        raise ConfigError(
            f"--model.name: {name} gives {tuple(features.shape)[1:]} for an image, not a vector"
        )
    return int(features.shape[1])


def _cannot_take(name: str, size: int, error: Exception) -> ConfigError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"--data.size: {name} cannot take images of {size} x {size} pixels ({reason}); "
        "use another size or --model.name"
    )


def check_patches(network: nn.Module, name: str, size: int) -> None:
    """Refuse a size that would leave pixels at the border unseen."""
    side = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    side = side[0] if isinstance(side, tuple) else side
    if isinstance(side, int) and size % side:
        reason = ValueError(f"its patches are {side} pixels wide and must fill the image")
        raise _cannot_take(name, size, reason)


def _tiny(stem: str) -> ResNet:
    """Build a ResNet of width 16, cheap enough to pretrain on two cores."""
    width = TINY_CHANNELS[0]
    build: Any = ResNet  # timm's annotations take a block for its class
    network: ResNet = build(
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=0,
        channels=TINY_CHANNELS,
        stem_type="deep",  # the only one whose width timm lets us choose; replaced below
        stem_width=width // 2,
    )
    if stem == "imagenet":
        pool = network.maxpool
        _replace_stem(network, kernel=7, stride=2)
        network.add_module("maxpool", pool)
    else:
        _replace_stem(network, kernel=3, stride=1 if stem == "cifar" else 2)
    return network


def _replace_stem(network: ResNet, *, kernel: int, stride: int) -> None:
    """Put one convolution without pooling before the first stage."""
    width = network.get_submodule("bn1").get_parameter("weight").numel()
    conv = nn.Conv2d(3, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    network.add_module("conv1", conv)
    network.add_module("maxpool", nn.Identity())


def replace_batch_norm(module: nn.Module) -> None:
    """Replace every batch normalisation below `module` by a group normalisation."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _group_norm(child))
        else:
            replace_batch_norm(child)


def _group_norm(old: _BatchNorm) -> nn.Module:
    norm = nn.GroupNorm(
        groups_for(old.num_features), old.num_features, eps=old.eps, affine=old.affine
    )
    if old.affine:
        norm.load_state_dict({"weight": old.weight, "bias": old.bias})
    after = [getattr(old, part) for part in ("drop", "act") if hasattr(old, part)]
    return nn.Sequential(norm, *after) if after else norm  # timm's BatchNormAct2d holds both


def groups_for(channels: int) -> int:
    """Return the number of groups: a divisor, at most 32, at least 8 channels in each."""
    most = max(1, min(32, channels // 8))
    return max(count for count in range(1, most + 1) if channels % count == 0)
