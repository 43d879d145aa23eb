"""The blocks `optimizer` and `scheduler` of ds.json, taken over into the run's own settings.

ssgear builds the optimizer and sets the learning rate itself, whatever the runtime: DeepSpeed gets
neither block. What the two cannot express is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssgear.config.deepspeed.draft import KINDS, DeepSpeedSchedule, Draft
from ssgear.config.deepspeed.keys import by_kind, check_block
from ssgear.errors import did_you_mean

_TYPES = {"adam": "adamw", "adamw": "adamw", "sgd": "sgd", "lars": "lars"}
_FOREIGN = {
    *("lamb", "onebitadam", "onebitlamb", "zerooneadam", "lion", "adagrad", "muon", "rmsprop"),
    *("muadam", "muadamw", "musgd"),
}
_OF_ADAM = {"betas", "eps", "adam_w_mode", "torch_adam", "bias_correction", "amsgrad"}
_OF_SGD = {"momentum", "nesterov", "dampening"}
_MUST_BE = {
    "nesterov": False,
    "dampening": 0,
    "amsgrad": False,
    "bias_correction": True,
    "eps": 1e-8,
}


def take_optimizer(draft: Draft) -> None:
    """Take name, rate, decay and momentum over; ssgear builds the optimizer itself."""
    block = draft.block("optimizer")
    if not block:
        return
    params = {} if block.get("params", {}) == "auto" else dict(block.get("params", {}))
    params = {key: value for key, value in params.items() if value != "auto"}
    before = draft.config.optim.name
    kind = block.get("type", before)
    name = _optimizer_name(draft, kind, params)
    draft.take("optim.name", name, f"optimizer.type {kind}")
    if "lr" in params:
        draft.take("optim.lr", float(params["lr"]), f"optimizer.params.lr {params['lr']}")
    elif name != before and "optim.lr" not in draft.given and not _peak_of_scheduler(draft):
        raise draft.error(
            f"optimizer.params.lr: {kind} needs a rate of its own (--optim.lr "
            f"{draft.config.optim.lr} is meant for {before}); write it here or as --optim.lr"
        )
    for key in (key for key in ("weight_decay", "momentum") if key in params):
        draft.take(f"optim.{key}", float(params[key]), f"optimizer.params.{key} {params[key]}")
    if "betas" in params:
        _take_betas(draft, params["betas"])


def _optimizer_name(draft: Draft, kind: str, params: Mapping[str, Any]) -> str:
    name = _TYPES.get(str(kind).lower())
    if name is None:
        if str(kind).lower() in _FOREIGN:
            raise draft.error(
                f"not supported by ssgear: optimizer.type {kind}; use AdamW, SGD, or LARS at ZeRO 0"
            )
        near = did_you_mean(str(kind), ("AdamW", "SGD", "LARS"))
        raise draft.error(f"optimizer.type: unknown optimizer {kind}{near}")
    if "max_grad_norm" in params:
        raise draft.error(
            "optimizer.params.max_grad_norm has no effect in DeepSpeed; "
            'write "gradient_clipping" at the top level'
        )
    for key in params:
        if key in (_OF_SGD if name == "adamw" else _OF_ADAM):
            raise draft.error(f"optimizer.params.{key}: {kind} has no such setting")
        if key in _MUST_BE and params[key] != _MUST_BE[key]:
            raise draft.error(f"not supported by ssgear: optimizer.params.{key} {params[key]}")
    if str(kind).lower() == "adam":
        if params.get("adam_w_mode") is False:
            raise draft.error(
                "not supported by ssgear: optimizer.params.adam_w_mode false; use AdamW"
            )
        draft.notes.append('optimizer.type "Adam" means AdamW, as in DeepSpeed')
    return name


def _take_betas(draft: Draft, betas: list[Any]) -> None:
    numbers = [b for b in betas if isinstance(b, (int, float)) and not isinstance(b, bool)]
    if len(betas) != 2 or len(numbers) != 2 or not all(0 <= b < 1 for b in numbers):
        raise draft.error(f"optimizer.params.betas: {betas} are not two numbers in [0, 1)")
    draft.betas = (float(betas[0]), float(betas[1]))
    draft.take("optim.momentum", draft.betas[0], f"optimizer.params.betas {betas}")


_WARMUP = by_kind(count="warmup_num_steps", text="warmup_type")
_BETWEEN = _WARMUP | by_kind(number="warmup_min_lr", positive="warmup_max_lr")
_TOTAL = by_kind(count="total_num_steps")
_SCHEDULERS: Mapping[str, Mapping[str, str]] = {
    "WarmupLR": _BETWEEN,
    "WarmupDecayLR": _BETWEEN | _TOTAL,
    "WarmupCosineLR": _WARMUP | _TOTAL | by_kind(number="warmup_min_ratio cos_min_ratio"),
    "CosineAnnealingLR": by_kind(count="T_max", number="eta_min"),
    "ExponentialLR": by_kind(positive="gamma"),
    "StepLR": by_kind(count="step_size", positive="gamma"),
}


def _peak_of_scheduler(draft: Draft) -> Any:
    params = draft.block("scheduler").get("params", {})
    peak = params.get("warmup_max_lr") if isinstance(params, Mapping) else None
    return None if peak == "auto" else peak


def take_scheduler(draft: Draft) -> None:
    """Make the schedule a function of the step; a peak named here is the run's learning rate."""
    block = draft.block("scheduler")
    if not block:
        return
    kind = str(block.get("type"))
    if kind not in _SCHEDULERS:
        near = did_you_mean(str(kind), KINDS)
        raise draft.error(
            f"not supported by ssgear: scheduler.type {kind}{near}; use one of {', '.join(KINDS)}"
        )
    if "optim.warmup_epochs" in draft.given:
        raise draft.error(
            f"scheduler.type {kind} contradicts --optim.warmup-epochs "
            f"{draft.config.optim.warmup_epochs}; give one of them"
        )
    params = {} if block.get("params", {}) == "auto" else dict(block.get("params", {}))
    check_block(params, "scheduler.params", draft.where, kinds=_SCHEDULERS[kind])
    peak = _peak_of_scheduler(draft)
    if peak is not None:
        draft.take("optim.lr", float(peak), f"scheduler.params.warmup_max_lr {peak}")
        in_optimizer = draft.block("optimizer").get("params", {})
        if isinstance(in_optimizer, Mapping) and in_optimizer.get("lr", peak) not in (peak, "auto"):
            raise draft.error(
                f"scheduler.params.warmup_max_lr {peak} contradicts optimizer.params.lr "
                f"{in_optimizer['lr']}; give one of them"
            )
    draft.schedule = _schedule(draft, kind, params)
    draft.notes.append(f"the learning rate follows scheduler.type {kind} of {draft.where}")


def _schedule(draft: Draft, kind: str, params: Mapping[str, Any]) -> DeepSpeedSchedule:
    given = {key: value for key, value in params.items() if value != "auto"}
    lr = draft.config.optim.lr
    warmup_type = given.get("warmup_type", "log")
    if warmup_type not in ("log", "linear"):
        raise draft.error(f"scheduler.params.warmup_type: {warmup_type} is not log or linear")
    if kind == "StepLR" and "step_size" not in given:
        raise draft.error("scheduler.params.step_size: StepLR needs a number of steps")
    if kind == "ExponentialLR" and "gamma" not in given:
        raise draft.error("scheduler.params.gamma: ExponentialLR needs a factor")
    # a key that is absent has DeepSpeed's default of 1000; "auto" is the warm-up of the run
    warmup = given.get("warmup_num_steps", None if "warmup_num_steps" in params else 1000)
    total = given.get("total_num_steps", given.get("T_max"))
    return DeepSpeedSchedule(
        kind=kind,
        warmup_steps=None if warmup is None else int(warmup),
        total_steps=None if total is None else int(total),
        linear=warmup_type == "linear",
        start=given.get("warmup_min_ratio", given.get("warmup_min_lr", 0.0) / lr),
        end=_end(kind, given, lr),
        gamma=float(given.get("gamma", 0.1)),
        step_size=int(given.get("step_size", 1)),
    )


def _end(kind: str, given: Mapping[str, Any], lr: float) -> float:
    """Return where a cosine ends, as a factor; DeepSpeed's default is 1e-4, torch's 0."""
    if kind == "WarmupCosineLR":
        return float(given.get("cos_min_ratio", 1e-4))
    return float(given.get("eta_min", 0.0)) / lr
