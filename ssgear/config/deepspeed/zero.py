"""The block `zero_optimization` of ds.json, and settings of single groups under "ssgear".

Refused is what would train wrongly without a word (LARS over flattened partitions), what fails
later (a gradient penalty through freed weights), and offloading that our optimizer cannot follow.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ssgear.config.deepspeed.draft import Draft
from ssgear.config.deepspeed.keys import KNOWN, PASSED_ON, check_block, find_auto, plain_numbers
from ssgear.config.deepspeed.rules import passed_on

_OF_A_GROUP = ("zero_optimization", "gradient_clipping", *PASSED_ON)
"""What may differ between the groups of a method."""


def take_zero(draft: Draft) -> int:
    """Complete zero_optimization and return its stage."""
    block = _zero(draft, draft.raw.get("zero_optimization", {}), under="")
    draft.ds["zero_optimization"] = block
    _allow_sgd(draft, draft.ds)
    return int(block["stage"])


def _allow_sgd(draft: Draft, ds: dict[str, Any]) -> None:
    """SGD works element by element, which ZeRO's flat partitions leave intact; LARS does not."""
    if draft.config.optim.name == "sgd" and ds["zero_optimization"]["stage"] > 0:
        ds["zero_allow_untested_optimizer"] = True


def _zero(draft: Draft, raw: Any, under: str) -> dict[str, Any]:
    path = f"{under}zero_optimization"
    if raw == "auto" or raw.get("stage") == "auto":
        raise draft.error(f'{path}.stage: "auto" has no meaning here; use 0, 1, 2 or 3')
    block = plain_numbers(raw, KNOWN["zero_optimization"])
    stage = block.setdefault("stage", 0)
    if stage > 3:
        raise draft.error(f"{path}.stage: {stage} is not possible; use 0, 1, 2 or 3")
    for key in ("offload_optimizer", "offload_param"):
        if isinstance(block.get(key), Mapping):
            block[key] = _offload(draft, block[key], key, stage, path)
            if block[key] is None:
                del block[key]
    auto = [found for key in block for found in find_auto(block[key], key)]
    if auto:
        draft.notes.append(f'{path}: "auto" means DeepSpeed\'s default for {", ".join(auto)}')
    _check_stage(draft, stage, f"{path}.stage {stage}")
    if block.get("compute_grad_norm") is False and (draft.config.optim.clip or stage not in (1, 2)):
        raise draft.error(f"{path}.compute_grad_norm: false needs stage 1 or 2 and no clipping")
    return _without_auto(block)


def _without_auto(block: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in block.items()
        if value != "auto"
    }


def _check_stage(draft: Draft, stage: int, said: str) -> None:
    """Refuse stages at which the run would train wrongly or not at all."""
    if stage >= 1 and draft.config.optim.name == "lars":
        raise draft.error(
            f"{said} cannot train with lars, whose norms are those of whole tensors (ZeRO flattens "
            "and cuts them); use --optim.name adamw or sgd, or stage 0"
        )
    if stage == 3 and draft.has_penalty:
        raise draft.error(
            f"{said} frees weights that the gradient penalty still differentiates; use stage 2"
        )
    if stage == 3 and draft.ema:
        raise draft.error(
            f"{said} leaves no rank with the whole weights that their moving average needs; "
            "use stage 2, or --optim.ema 0"
        )
    if stage == 3 and draft.follower:
        raise draft.error(
            f"{said} leaves no rank with the whole weights that {draft.config.method_name}'s "
            f"{draft.follower} follows; use stage 2"
        )
    if stage == 3:
        draft.notes.append(f"{said} is experimental in ssgear")


def _offload(
    draft: Draft, raw: Mapping[str, Any], key: str, stage: int, path: str
) -> dict[str, Any] | None:
    """Return an offload block, or None where there is nothing to offload."""
    path = f"{path}.{key}"
    block = plain_numbers(raw, KNOWN[f"zero_optimization.{key}"])
    device = block.get("device", "none")
    if device in (None, "none", "auto"):
        return None
    if device != "cpu":
        raise draft.error(f"not supported by ssgear: {path}.device {device}; use cpu or none")
    needed = 3 if key == "offload_param" else 1
    if stage < needed:
        raise draft.error(f"{path}.device cpu needs stage {needed} or higher, not {stage}")
    partial = block.get("super_offload") or block.get("ratio", 1) not in (1, "auto")
    if partial and stage < 3:
        raise draft.error(f"{path}: ratio and super_offload need stage 3, not {stage}")
    if draft.device == "cpu":
        draft.notes.append(f"{path}: nothing to offload without a GPU; left out")
        return None
    if key == "offload_optimizer":
        _offload_optimizer(draft, path)
    return block


def _offload_optimizer(draft: Draft, path: str) -> None:
    if draft.value("zero_force_ds_cpu_optimizer") is False:
        draft.notes.append(f"{path}: the optimizer is torch's own on the CPU, which is slow")
    elif draft.config.optim.name == "adamw":
        draft.cpu_adam = True
    else:
        raise draft.error(
            f"{path}.device cpu works with adamw (DeepSpeed's CPUAdam), not with "
            f"{draft.config.optim.name}; use adamw, or accept a slow step with "
            '"zero_force_ds_cpu_optimizer": false'
        )


def group_overrides(draft: Draft) -> dict[str, dict[str, Any]]:
    """Return the complete settings of each group under "ssgear"."""
    groups = draft.block("ssgear")
    return {name: _override(draft, name, block) for name, block in groups.items()}


def _override(draft: Draft, name: str, block: Any) -> dict[str, Any]:
    under = f"ssgear.{name}."
    kinds = {key: KNOWN[""][key] for key in _OF_A_GROUP}
    for key in block if isinstance(block, Mapping) else ():
        if key in KNOWN[""] and key not in kinds:
            raise draft.error(f"{under}{key}: is the same for all groups; set it at the top level")
    check_block(block, "", draft.where, kinds=kinds, under=under)
    ds = copy.deepcopy(draft.ds) | passed_on(draft, block, under)
    clip = block.get("gradient_clipping", "auto")
    if clip != "auto":
        ds["gradient_clipping"] = float(clip)
    merged = {**draft.block("zero_optimization"), **block.get("zero_optimization", {})}
    ds["zero_optimization"] = _zero(draft, merged, under)
    _allow_sgd(draft, ds)
    return ds
