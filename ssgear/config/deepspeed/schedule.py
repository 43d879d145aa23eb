"""The `scheduler` block of ds.json as a function of the step: one loop drives every schedule.

DeepSpeed's own three (warm-up then constant, linear, cosine) and three of torch's, each with the
values that the originals give step by step. What the file leaves to the program ("auto") is the
run's own length and warm-up. Nothing of DeepSpeed or torch is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARMUP = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR")
KINDS = (*WARMUP, "CosineAnnealingLR", "ExponentialLR", "StepLR")


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSchedule:
    """Factor on the peak learning rate at step 0, 1, ...; call it like `ssgear.optim.schedule`."""

    kind: str
    """One of `KINDS`."""
    warmup_steps: int | None = None
    """Steps of the warm-up; None: the run's."""
    total_steps: int | None = None
    """Steps until the decay ends; None: the run's."""
    linear: bool = False
    """Warm up linearly and not by the logarithm of the step."""
    start: float = 0.0
    """Factor at the start of the warm-up."""
    end: float = 0.0
    """Factor at the end of a cosine."""
    gamma: float = 0.1
    """Factor from one stage to the next (StepLR, ExponentialLR)."""
    step_size: int = 1
    """Steps of a stage (StepLR)."""

    def __call__(self, step: int, *, total_steps: int, warmup_steps: int) -> float:
        """Return the factor of a step."""
        total = total_steps if self.total_steps is None else self.total_steps
        if self.kind not in WARMUP:
            return self._torch(step, total)
        warmup = max(2, warmup_steps if self.warmup_steps is None else self.warmup_steps)
        return self._deepspeed(step - 1, total, warmup)

    def _deepspeed(self, last: int, total: int, warmup: int) -> float:
        """Return DeepSpeed's factor; its count `last` is one behind the step."""
        if last < 0:
            return 0.0 if self.kind == "WarmupCosineLR" else self.start
        if last < warmup:
            risen = last / warmup if self.linear else math.log(last + 1) / math.log(warmup)
            return self.start + (1 - self.start) * risen
        if self.kind == "WarmupLR":
            return 1.0
        if self.kind == "WarmupDecayLR":
            left = max(0.0, (total - last) / max(1, total - warmup))
            return self.start + (1 - self.start) * left
        share = min(1.0, (last - warmup + 1) / max(1, total - warmup))
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * share)) / 2

    def _torch(self, step: int, total: int) -> float:
        if self.kind == "CosineAnnealingLR":
            return self.end + (1 - self.end) * (1 + math.cos(math.pi * step / total)) / 2
        return float(self.gamma ** (step // self.step_size))
