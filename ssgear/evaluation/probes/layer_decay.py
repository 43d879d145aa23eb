"""Smaller learning rates for earlier layers (Clark et al. 2020, arXiv 2003.10555; BEiT 2106.08254).

A layer that stands k layers below the classifier gets `layer_decay ** k` of its learning rate.
timm's networks name their layers (`group_matcher`); the package's own have their blocks
(`block_names`), and a network without either has one layer for each module that holds weights.
Norms, biases and what a network asks for (a ViT's position embedding) are not decayed.
"""

from __future__ import annotations

from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from ssgear.models.encoders.blocks import block_names
from ssgear.optim import Group

HEAD = "linear_classifier"
"""Stands for the classifier in timm's grouping; no network has a weight of this name."""


def layer_groups(
    network: nn.Module, head: nn.Module, *, weight_decay: float, layer_decay: float
) -> list[Group]:
    """Return the parameter groups of an optimizer over a network and a classifier on top of it.

    Args:
        network: Images to features; parameters that need no gradient are left out.
        head: The classifier, whose `lr_scale` is 1.
        weight_decay: Of tensors with two or more dimensions.
        layer_decay: Factor from a layer to the one below it, in (0, 1]; 1 gives all layers the
            same learning rate.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`, from the first layer to the classifier.
    """
    layers = layer_numbers(network)
    top = layers[HEAD]
    asks: Any = getattr(network, "no_weight_decay", set)
    undecayed = set(asks())
    named = [(name, layers[name], parameter) for name, parameter in network.named_parameters()]
    named += [(f"{HEAD}.{name}", top, parameter) for name, parameter in head.named_parameters()]
    groups: dict[tuple[int, bool], Group] = {}
    for name, layer, parameter in named:
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in undecayed
        group = {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (top - layer),
        }
        groups.setdefault((layer, decays), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_numbers(network: nn.Module) -> dict[str, int]:
    """Return the layer of every parameter by name, from 0, and that of the classifier (`HEAD`)."""
    matcher: Any = getattr(network, "group_matcher", None)
    if matcher is not None:
        named = [*network.named_parameters(), (HEAD, None)]
        return dict(group_with_matcher(iter(named), matcher(coarse=False), reverse=True))
    blocks = block_names(network)
    owners = {name: _owner(name, blocks) for name, _ in network.named_parameters()}
    order = {owner: number for number, owner in enumerate(dict.fromkeys(owners.values()))}
    return {name: order[owner] for name, owner in owners.items()} | {HEAD: len(order)}


def _owner(name: str, blocks: tuple[str, ...]) -> str:
    """Return the block that a parameter belongs to, else the module that holds it."""
    above = [block for block in blocks if name.startswith(f"{block}.")]
    return above[0] if above else name.rpartition(".")[0]
