"""`--deepspeed ds.json`: checked completely before any work, made into what DeepSpeed gets.

    raw = read_object(path)
    resolved = resolve(raw, config, given, world=8, device="cuda", where="ds.json")
    deepspeed.initialize(config=resolved.for_group("encoder"), optimizer=...)

The file owns precision, ZeRO, accumulation, clipping and the micro-batch; an option of the command
line that says otherwise is an error that names both. The rules stand in `rules`, `optimizer` and
`zero`, the keys in `keys`. Neither torch nor DeepSpeed is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ssgear.config.deepspeed import optimizer as optim
from ssgear.config.deepspeed import rules, zero
from ssgear.config.deepspeed.draft import DeepSpeedSchedule, Draft
from ssgear.config.deepspeed.keys import check_block
from ssgear.config.schema import Config
from ssgear.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class ResolvedDeepSpeed:
    """What a ds.json comes to in this run."""

    ds: dict[str, Any]
    """Complete settings for DeepSpeed, without "auto", optimizer and scheduler (it gets ours)."""
    config: Config
    """The run's settings with those of the file taken over."""
    zero_stage: int
    """ZeRO stage 0 to 3."""
    notes: tuple[str, ...] = ()
    """What a user should be told once."""
    betas: tuple[float, float] | None = None
    """Decay rates of adamw where the file gives them, for `build_optimizer`."""
    schedule: DeepSpeedSchedule | None = None
    """Replaces `ssgear.optim.schedule` where the file has a scheduler."""
    cpu_adam: bool = False
    """The optimizer's state is offloaded: build `deepspeed.ops.adam.DeepSpeedCPUAdam` for adamw."""
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Complete settings of the groups named under "ssgear"."""

    def for_group(self, name: str) -> dict[str, Any]:
        """Return the settings of a group's engine, as a copy: DeepSpeed changes what it gets."""
        return copy.deepcopy(self.overrides.get(name, self.ds))

    def check_groups(self, names: Collection[str], where: str) -> None:
        """Refuse settings for a group that the method does not have."""
        for name in self.overrides:
            if name not in names:
                raise ConfigError(
                    f"{where}: ssgear.{name}: the method has no such group"
                    f"{did_you_mean(name, names)}; it has {', '.join(names)}"
                )


def resolve(
    raw: Mapping[str, Any],
    config: Config,
    given: frozenset[str],
    *,
    world: int,
    device: Literal["cpu", "cuda"],
    where: str,
    has_penalty: bool = False,
    cacheable: bool = True,
    ema: bool = False,
    follower: str | None = None,
) -> ResolvedDeepSpeed:
    """Check the settings against the run and complete them.

    `given` holds the dotted names of the options that the command line states, such as
    "optim.batch_size"; `where` names the file in errors. `has_penalty`: a loss differentiates a
    gradient; `cacheable`: a batch can be computed in slices; `ema`: a moving average is kept that
    needs the weights whole; `follower`: what the method itself lets follow the weights.
    """
    check_block(raw, "", where)
    draft = Draft(
        raw=copy.deepcopy(dict(raw)),
        config=config,
        given=given,
        world=world,
        device=device,
        where=where,
        has_penalty=has_penalty,
        cacheable=cacheable,
        ema=ema,
        follower=follower,
    )
    optim.take_optimizer(draft)
    optim.take_scheduler(draft)
    rules.take_batch(draft)
    rules.take_precision(draft)
    rules.take_clipping(draft)
    rules.take_rest(draft)
    stage = zero.take_zero(draft)
    overrides = zero.group_overrides(draft)
    return ResolvedDeepSpeed(
        ds=draft.ds,
        config=draft.config,
        zero_stage=stage,
        notes=tuple(dict.fromkeys(draft.notes)),
        betas=draft.betas,
        schedule=draft.schedule,
        cpu_adam=draft.cpu_adam,
        overrides=overrides,
    )
