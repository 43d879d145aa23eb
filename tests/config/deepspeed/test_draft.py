"""Each schedule against the class that it stands for, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssgear.config.deepspeed.draft import DeepSpeedSchedule

PEAK = 0.3


def rates_of(scheduler_of: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule: DeepSpeedSchedule, steps: int, **run: int) -> list[float]:
    return [PEAK * schedule(step, **run) for step in range(steps)]


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("warmup", "total"), [(1, 17), (5, 17), (2, 3)])
@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_deepspeed_schedules(
    kind: str, warmup: int, total: int, linear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    lr_schedules = pytest.importorskip("deepspeed.runtime.lr_schedules")
    params: dict[str, Any] = {
        "warmup_num_steps": warmup,
        "warmup_type": "linear" if linear else "log",
    }
    if kind != "WarmupLR":
        params["total_num_steps"] = total
    if kind == "WarmupCosineLR":
        params |= {"warmup_min_ratio": 0.1, "cos_min_ratio": 0.05}
        schedule = DeepSpeedSchedule(kind=kind, linear=linear, start=0.1, end=0.05)
    else:
        params |= {"warmup_min_lr": 0.03, "warmup_max_lr": PEAK}
        schedule = DeepSpeedSchedule(kind=kind, linear=linear, start=0.03 / PEAK)
    expected = rates_of(lambda o: getattr(lr_schedules, kind)(o, **params), 20)
    got = ours(schedule, 20, total_steps=total, warmup_steps=warmup)
    assert got == pytest.approx(expected, abs=1e-12)


def test_torch_schedules() -> None:
    run = {"total_steps": 99, "warmup_steps": 9}
    lr_scheduler = torch.optim.lr_scheduler
    cosine = DeepSpeedSchedule(kind="CosineAnnealingLR", total_steps=13, end=0.2)
    expected = rates_of(lambda o: lr_scheduler.CosineAnnealingLR(o, 13, 0.2 * PEAK), 20)
    assert ours(cosine, 20, **run) == pytest.approx(expected, abs=1e-12)
    steps = DeepSpeedSchedule(kind="StepLR", step_size=3, gamma=0.5)
    assert ours(steps, 20, **run) == pytest.approx(
        rates_of(lambda o: lr_scheduler.StepLR(o, 3, 0.5), 20)
    )
    power = DeepSpeedSchedule(kind="ExponentialLR", gamma=0.9)
    assert ours(power, 20, **run) == pytest.approx(
        rates_of(lambda o: lr_scheduler.ExponentialLR(o, 0.9), 20)
    )


def test_what_the_file_names_wins_over_the_run() -> None:
    schedule = DeepSpeedSchedule(kind="WarmupDecayLR", warmup_steps=4, total_steps=10, linear=True)
    got = [schedule(step, total_steps=1000, warmup_steps=500) for step in (1, 3, 5, 11)]
    assert got == pytest.approx([0.0, 0.5, 1.0, 0.0])
