"""Optimizer and scheduler blocks: taken over into the run, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from ssgear.config.schema import Config, OptimConfig

ADAMW = Config(optim=OptimConfig(name="adamw", lr=1e-3))
LARS = Config()


def optimizer(kind: str, **params: Any) -> dict[str, Any]:
    return {"optimizer": {"type": kind, "params": params}}


def test_optimizer_is_taken_over(resolved: Any) -> None:
    raw = optimizer("AdamW", lr=3e-4, betas=[0.8, 0.95], eps=1e-8, weight_decay=0.05)
    result = resolved(raw, LARS)
    optim = result.config.optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.momentum) == ("adamw", 3e-4, 0.05, 0.8)
    assert result.betas == (0.8, 0.95) and "optimizer" not in result.ds
    result = resolved(optimizer("SGD", lr=0.1, momentum=0.7), ADAMW)
    assert (result.config.optim.name, result.config.optim.momentum) == ("sgd", 0.7)
    assert resolved(optimizer("LARS", lr=0.1), ADAMW).config.optim.name == "lars"
    assert resolved({"optimizer": {"params": {"lr": 0.5}}}, LARS).config.optim.lr == 0.5


def test_adam_means_adamw(resolved: Any) -> None:
    result = resolved(optimizer("Adam", lr=1e-3), LARS)
    assert result.config.optim.name == "adamw"
    assert result.notes == ('optimizer.type "Adam" means AdamW, as in DeepSpeed',)


def test_rate_of_another_optimizer_is_not_taken(resolved: Any, refused: Any) -> None:
    refused("optimizer.params.lr: AdamW needs a rate of its own .*0.4 is meant for lars",
            optimizer("AdamW", lr="auto"), LARS)  # fmt: skip
    assert resolved(optimizer("AdamW"), LARS, {"optim.lr": 1e-3}).config.optim.lr == 1e-3
    assert resolved({"optimizer": {"type": "AdamW", "params": "auto"}}).config.optim.lr == 1e-3
    raw = optimizer("AdamW") | scheduler("WarmupLR", warmup_max_lr=2e-3)
    assert resolved(raw, LARS).config.optim.lr == 2e-3


@pytest.mark.parametrize(
    ("raw", "argv", "message"),
    [
        (
            optimizer("AdamW", lr=1e-3),
            {"optim.name": "sgd"},
            "optimizer.type AdamW contradicts --optim.name sgd",
        ),
        (
            optimizer("AdamW", lr=1e-3),
            {"optim.lr": 0.01},
            "optimizer.params.lr 0.001 contradicts --optim.lr 0.01",
        ),
        (
            optimizer("AdamW", weight_decay=0.1),
            {"optim.weight_decay": 0.0},
            "weight_decay 0.1 contradicts --optim.weight-decay 0.0",
        ),
        (optimizer("Lamb", lr=1), {}, "not supported by ssgear: optimizer.type Lamb"),
        (optimizer("OneBitAdam", lr=1), {}, "not supported by ssgear: optimizer.type OneBitAdam"),
        (optimizer("AdamX", lr=1), {}, r"unknown optimizer AdamX \(did you mean AdamW\?\)"),
        (optimizer("AdamW", lr=1, max_grad_norm=1.0), {}, 'write "gradient_clipping" at the top'),
        (optimizer("Adam", lr=1, adam_w_mode=False), {}, "adam_w_mode false; use AdamW"),
        (optimizer("SGD", lr=1, nesterov=True), {}, "not supported by ssgear: .*nesterov"),
        (optimizer("AdamW", lr=1, eps=1e-6), {}, "not supported by ssgear: .*eps 1e-06"),
        (optimizer("SGD", lr=1, betas=[0.9, 0.9]), {}, "betas: SGD has no such setting"),
        (optimizer("AdamW", lr=1, momentum=0.9), {}, "momentum: AdamW has no such setting"),
        (optimizer("AdamW", lr=1, betas=[0.9]), {}, "betas: .* are not two numbers"),
        (optimizer("AdamW", lr=1, betas=[0.9, 1.0]), {}, "betas: .* are not two numbers"),
        (optimizer("AdamW", lr=0), {}, "optimizer.params.lr: 0 is not a number above 0"),
        (optimizer("AdamW", l_r=1), {}, r"optimizer.params.l_r: unknown key \(did you mean lr\?\)"),
        (
            {"optimizer": {"typ": "AdamW"}},
            {},
            r"optimizer.typ: unknown key \(did you mean type\?\)",
        ),
        (
            {"optimizer": {"type": "AdamW", "legacy_fusion": True}},
            {},
            "not supported by ssgear: optimizer.legacy_fusion",
        ),
    ],
)
def test_optimizers_that_cannot_be(refused: Any, raw: Any, argv: Any, message: str) -> None:
    refused(message, raw, argv=argv)


def scheduler(kind: str, **params: Any) -> dict[str, Any]:
    return {"scheduler": {"type": kind, "params": params}}


RUN = {"total_steps": 100, "warmup_steps": 10}


def test_scheduler_becomes_a_function_of_the_step(resolved: Any) -> None:
    raw = scheduler("WarmupDecayLR", warmup_num_steps="auto", total_num_steps="auto",
                    warmup_type="linear", warmup_min_lr=1e-4, warmup_max_lr=2e-3)  # fmt: skip
    result = resolved(raw)
    assert result.config.optim.lr == 2e-3 and "scheduler" not in result.ds
    assert result.schedule is not None
    values = [result.schedule(step, **RUN) for step in (0, 6, 11, 56, 101)]
    assert values == pytest.approx([0.05, 0.525, 1.0, 0.525, 0.05])
    cosine = resolved(scheduler("CosineAnnealingLR", T_max=50, eta_min=1e-4)).schedule
    assert cosine is not None
    assert [cosine(s, **RUN) for s in (0, 25, 50)] == pytest.approx([1.0, 0.55, 0.1])
    assert resolved({}).schedule is None


def test_defaults_of_schedulers(resolved: Any) -> None:
    plain = resolved(scheduler("WarmupLR")).schedule
    assert plain is not None and plain.warmup_steps == 1000 and not plain.linear
    cosine = resolved(scheduler("WarmupCosineLR", total_num_steps=50, warmup_num_steps=5)).schedule
    assert cosine is not None and (cosine.end, cosine.total_steps, cosine.warmup_steps) == (
        1e-4,
        50,
        5,
    )
    step = resolved(scheduler("StepLR", step_size=30, gamma=0.5)).schedule
    assert step is not None and step(65, **RUN) == 0.25


@pytest.mark.parametrize(
    ("raw", "argv", "message"),
    [
        (
            scheduler("WarmupLR"),
            {"optim.warmup_epochs": 5.0},
            "scheduler.type WarmupLR contradicts --optim.warmup-epochs 5.0",
        ),
        (
            scheduler("WarmupLR", warmup_max_lr=0.1),
            {"optim.lr": 0.2},
            "scheduler.params.warmup_max_lr 0.1 contradicts --optim.lr 0.2",
        ),
        (
            scheduler("WarmupLR", warmup_max_lr=0.1) | optimizer("AdamW", lr=0.2),
            {},
            "warmup_max_lr 0.1 contradicts optimizer.params.lr 0.2",
        ),
        (scheduler("OneCycle"), {}, "not supported by ssgear: scheduler.type OneCycle; use one of"),
        (scheduler("WarmupL"), {}, r"scheduler.type WarmupL \(did you mean WarmupLR\?\)"),
        (scheduler("WarmupLR", warmup_steps=3), {}, r"scheduler.params.warmup_steps: unknown key"),
        (scheduler("WarmupLR", warmup_type="cos"), {}, "warmup_type: cos is not log or linear"),
        (scheduler("WarmupLR", warmup_num_steps=0), {}, "warmup_num_steps: 0 is not a whole"),
        (scheduler("StepLR"), {}, "step_size: StepLR needs"),
        (scheduler("ExponentialLR"), {}, "gamma: ExponentialLR needs"),
    ],
)
def test_schedulers_that_cannot_be(refused: Any, raw: Any, argv: Any, message: str) -> None:
    refused(message, raw, argv=argv)
