"""Batch, precision, clipping and the rest of ds.json: taken over, translated or refused.

Each function works on a `Draft`; why a combination is refused stands in its error.
`deepspeed.resolve` calls them in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssgear.config.deepspeed.draft import Draft
from ssgear.config.deepspeed.keys import PASSED_ON, find_auto, plain_numbers

_BATCH, _MICRO, _STEPS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)
_BFLOAT16 = ("bf16", "bfloat16", "torch.bfloat16")


def take_batch(draft: Draft) -> None:
    """Fill in the three sizes; more than one accumulation step means gradient caching."""
    micro, steps = draft.whole(_MICRO), draft.whole(_STEPS)
    total = _batch_size(draft)
    asked = draft.config.optim.micro_batch
    per_rank = total // draft.world
    if micro is None:
        micro = per_rank // steps if steps else min(asked or per_rank, per_rank)
    if steps is None:
        steps = per_rank // micro if micro else 0
    if micro * steps * draft.world != total:
        raise draft.error(
            f"{_BATCH} {total} is not {_MICRO} {micro} * {_STEPS} {steps} * {draft.world} "
            f"rank{'s' * (draft.world > 1)} (= {micro * steps * draft.world})"
        )
    key = next((key for key in (_MICRO, _STEPS) if draft.whole(key) is not None), None)
    if key is not None and "optim.micro_batch" in draft.given and asked not in (None, micro):
        raise draft.error(
            f"{key} {draft.whole(key)} contradicts --optim.micro-batch {asked}; give one of them"
        )
    draft.ds |= {_BATCH: total, _MICRO: micro, _STEPS: steps}
    draft.set("optim.batch_size", total)
    draft.set("optim.micro_batch", micro if steps > 1 and draft.cacheable else None)
    if steps > 1 and not draft.cacheable:
        draft.notes.append(
            f"{_STEPS} {steps}: this method needs its batch whole, so each rank computes its "
            f"{per_rank} images at once; no memory is saved"
        )
    elif steps > 1:
        draft.notes.append(
            f"{_STEPS} {steps}: gradient caching, {micro} images at a time on each rank, with the "
            f"gradient of the whole batch of {total}"
        )


def _batch_size(draft: Draft) -> int:
    """Return the images of one step over all ranks, by the file or else by the run."""
    batch, micro, steps = (draft.whole(key) for key in (_BATCH, _MICRO, _STEPS))
    own, ranks = draft.config.optim.batch_size, f"{draft.world} rank{'s' * (draft.world > 1)}"
    auto = "auto" in [draft.raw.get(key) for key in (_BATCH, _MICRO, _STEPS)]
    if batch is not None:
        said = f"{_BATCH} {batch}"
    elif micro is not None and steps is not None:
        batch = micro * steps * draft.world
        said = f"{_MICRO} {micro} * {_STEPS} {steps} * {ranks} = {batch}"
    elif micro is not None and not auto and "optim.batch_size" not in draft.given:
        batch = micro * draft.world  # what DeepSpeed makes of a micro-batch alone
        said = f"{_MICRO} {micro} * {ranks} = {batch}"
    else:
        return own
    draft.take("optim.batch_size", batch, said)
    if batch != own:
        draft.notes.append(f"batch size {batch} ({said}) in place of {own}")
    return batch


def take_precision(draft: Draft) -> None:
    """Choose at most one of bf16 and torch_autocast; "auto" is what the run asks for."""
    if "bf16" in draft.raw and "bfloat16" in draft.raw:
        raise draft.error("bf16 and bfloat16 are the same block; give one of them")
    bf16 = "bfloat16" if "bfloat16" in draft.raw else "bf16"
    _check_precision_blocks(draft, bf16)
    wish = {key: _enabled(draft, key) for key in (bf16, "fp16", "torch_autocast")}
    on = [key for key, state in wish.items() if state is True]
    if len(on) > 1:
        raise draft.error(f"{on[0]} and {on[1]} are both enabled; enable one of them")
    if "auto" in wish.values() and not on:
        draft.notes.append(
            f'precision "auto" means {draft.config.engine.precision} (--engine.precision)'
        )
    if on == ["fp16"]:
        raise draft.error(
            "fp16.enabled: ssgear does not train float16 weights: its views, and the noise and "
            "images between networks, are float32, which they cannot take; use bf16"
        )
    if on:
        draft.take("engine.precision", "bf16", f"{on[0]}.enabled true")
        if on == [bf16]:
            draft.notes.append(
                f"{bf16}: the forward pass runs under bfloat16 autocast; weights, batch statistics "
                "and optimizer stay float32"
            )
    elif "auto" not in (wish[bf16], wish["torch_autocast"]):
        off = [key for key in (bf16, "torch_autocast") if wish[key] is False]
        if off:
            draft.take("engine.precision", "float32", f"{off[0]}.enabled false")


def _enabled(draft: Draft, key: str) -> bool | str | None:
    """Return true, false, "auto", or None where the file has no such block."""
    if key not in draft.raw:
        return None
    if draft.raw[key] == "auto":
        return "auto"
    state: bool | str = draft.raw[key].get("enabled", False)
    return state


def _check_precision_blocks(draft: Draft, bf16: str) -> None:
    for key in ("immediate_grad_update", "bf16_master_weights_and_grads", "bf16_optimizer_states"):
        if draft.block(bf16).get(key) is True:
            raise draft.error(f"not supported by ssgear: {bf16}.{key} (weights stay float32)")
    autocast = draft.block("torch_autocast")
    if "lower_precision_safe_modules" in autocast:
        raise draft.error("not supported by ssgear: torch_autocast.lower_precision_safe_modules")
    dtype = autocast.get("dtype", "bfloat16")
    if dtype != "auto" and dtype not in _BFLOAT16:
        raise draft.error(f"torch_autocast.dtype: {dtype} is not possible; use bfloat16")
    dtype = draft.block("data_types").get("grad_accum_dtype")
    if dtype not in (None, "auto", "fp32"):
        raise draft.error(f"not supported by ssgear: data_types.grad_accum_dtype {dtype}")


def take_clipping(draft: Draft) -> None:
    """Always write gradient_clipping: DeepSpeed's default is 1.0, which nobody asked for."""
    value = draft.value("gradient_clipping")
    if value is not None:
        draft.take("optim.clip", float(value), f"gradient_clipping {value}")
    clip = draft.config.optim.clip
    draft.ds["gradient_clipping"] = clip
    if draft.raw.get("gradient_clipping") == "auto":
        draft.notes.append(f'gradient_clipping "auto" means {clip} (--optim.clip)')


def take_rest(draft: Draft) -> None:
    """Pass on what DeepSpeed alone is concerned with, and refuse another mean over the ranks."""
    operation = draft.raw.get("gradient_allreduce_op", "mean")
    if str(operation).lower() != "mean":
        raise draft.error(
            f"gradient_allreduce_op: {operation} is not possible; the losses of ssgear expect mean"
        )
    draft.ds |= passed_on(draft, draft.raw, under="")
    force = draft.value("zero_force_ds_cpu_optimizer")
    if force is not None:
        draft.ds["zero_force_ds_cpu_optimizer"] = force
    untested = draft.value("zero_allow_untested_optimizer")
    if untested is not None:
        draft.ds["zero_allow_untested_optimizer"] = untested


def passed_on(draft: Draft, block: Mapping[str, Any], under: str) -> dict[str, Any]:
    """Return the keys that DeepSpeed gets as they stand, of the file or of one group."""
    kept = {key: value for key, value in block.items() if key in PASSED_ON}
    for key, value in kept.items():
        for path in find_auto(value, key):
            raise draft.error(
                f'{under}{path}: "auto" has no meaning here; give a value or leave out'
            )
    kind = kept.get("communication_data_type")
    if kind is not None and str(kind).lower() not in ("fp16", "bf16", "fp32"):
        raise draft.error(f"{under}communication_data_type: {kind} is not fp16, bf16 or fp32")
    return plain_numbers(kept, PASSED_ON)
