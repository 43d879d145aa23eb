"""ZeRO stages, offloading, and settings of single groups."""

from __future__ import annotations

from typing import Any

import pytest

from ssgear.config.schema import Config, OptimConfig
from ssgear.errors import ConfigError

ADAMW = Config(optim=OptimConfig(name="adamw", lr=1e-3))
LARS = Config()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stages(resolved: Any, stage: int) -> None:
    result = resolved({"zero_optimization": {"stage": stage, "reduce_bucket_size": 5e8}})
    assert result.zero_stage == stage
    block = result.ds["zero_optimization"]
    assert block == {"stage": stage, "reduce_bucket_size": 500_000_000}
    assert isinstance(block["reduce_bucket_size"], int)
    assert any("experimental" in note for note in result.notes) == (stage == 3)
    assert "zero_allow_untested_optimizer" not in result.ds


def test_no_zero_block_is_stage_zero(resolved: Any) -> None:
    result = resolved({})
    assert result.zero_stage == 0 and result.ds["zero_optimization"] == {"stage": 0}


def zero(**block: Any) -> dict[str, Any]:
    return {"zero_optimization": block}


@pytest.mark.parametrize(
    ("raw", "kwargs", "message"),
    [
        (
            zero(stage=1),
            {"config": LARS},
            "stage 1 cannot train with lars.*adamw or sgd, or stage 0",
        ),
        (
            zero(stage=2) | {"zero_allow_untested_optimizer": True},
            {"config": LARS},
            "stage 2 cannot train with lars",
        ),
        (zero(stage=3), {"has_penalty": True}, "the gradient penalty still differentiates"),
        (
            zero(stage=3),
            {"follower": "momentum encoder"},
            "whole weights that simclr's momentum encoder follows; use stage 2",
        ),
        (zero(stage=3), {"ema": True}, "moving average needs; use stage 2, or --optim.ema 0"),
        (zero(stage=4), {}, "zero_optimization.stage: 4 is not possible; use 0, 1, 2 or 3"),
        (zero(stage="auto"), {}, 'zero_optimization.stage: "auto" has no meaning'),
        ({"zero_optimization": "auto"}, {}, 'zero_optimization.stage: "auto"'),
        ({"zero_optimization": True}, {}, "zero_optimization: true is not a block"),
        (zero(stag=2), {}, r"zero_optimization.stag: unknown key \(did you mean stage\?\)"),
        (zero(stage="2"), {}, 'zero_optimization.stage: "2" is not a whole number'),
        (zero(stage=2, overlap_comm=1), {}, "zero_optimization.overlap_comm: 1 is not true or"),
        (zero(stage=2, reduce_bucket_size=0), {}, "reduce_bucket_size: 0 is not a whole"),
        (zero(stage=2, cpu_offload=True), {}, "not supported by ssgear: zero_optimization.cpu_o"),
        (zero(stage=2, zenflow={}), {}, "not supported by ssgear: zero_optimization.zenflow"),
        (zero(stage=0, compute_grad_norm=False), {}, "compute_grad_norm: false needs stage 1 or 2"),
        (
            zero(stage=2, compute_grad_norm=False) | {"gradient_clipping": 1.0},
            {},
            "compute_grad_norm: false needs stage 1 or 2 and no clipping",
        ),
        ({"gradient_allreduce_op": "sum"}, {}, "gradient_allreduce_op: sum .* expect mean"),
    ],
)
def test_zero_that_cannot_be(refused: Any, raw: Any, kwargs: dict[str, Any], message: str) -> None:
    refused(message, raw, **kwargs)


def test_stage_two_takes_penalties_and_averages(resolved: Any) -> None:
    assert resolved(zero(stage=2), has_penalty=True, ema=True).zero_stage == 2
    assert resolved(zero(stage=0), LARS).zero_stage == 0


@pytest.mark.parametrize(("stage", "expected"), [(0, None), (1, True), (2, True), (3, True)])
def test_sgd_is_allowed_under_zero(resolved: Any, stage: int, expected: bool | None) -> None:
    sgd = Config(optim=OptimConfig(name="sgd"))
    assert resolved(zero(stage=stage), sgd).ds.get("zero_allow_untested_optimizer") is expected


OFFLOAD = {"device": "cpu", "pin_memory": True}


def test_offloading_with_adamw(resolved: Any) -> None:
    result = resolved(zero(stage=2, offload_optimizer=OFFLOAD), device="cuda")
    assert result.cpu_adam
    assert result.ds["zero_optimization"]["offload_optimizer"] == OFFLOAD
    forced = zero(stage=2, offload_optimizer=OFFLOAD) | {"zero_force_ds_cpu_optimizer": False}
    result = resolved(forced, Config(optim=OptimConfig(name="sgd")), device="cuda")
    assert not result.cpu_adam and result.ds["zero_force_ds_cpu_optimizer"] is False
    assert any("slow" in note for note in result.notes)


def test_offloading_without_a_gpu_is_left_out(resolved: Any) -> None:
    result = resolved(zero(stage=3, offload_optimizer=OFFLOAD, offload_param=OFFLOAD))
    assert result.ds["zero_optimization"] == {"stage": 3} and not result.cpu_adam
    assert sum("nothing to offload" in note for note in result.notes) == 2
    assert resolved(zero(stage=2, offload_optimizer={"device": "none"})).notes == ()


@pytest.mark.parametrize(
    ("raw", "config", "message"),
    [
        (
            zero(stage=2, offload_optimizer=OFFLOAD),
            Config(optim=OptimConfig(name="sgd")),
            "offload_optimizer.device cpu works with adamw .*zero_force_ds_cpu_optimizer",
        ),
        (
            zero(stage=3, offload_optimizer={"device": "nvme", "nvme_path": "/x"}),
            ADAMW,
            "not supported by ssgear: zero_optimization.offload_optimizer.device nvme",
        ),
        (zero(stage=0, offload_optimizer=OFFLOAD), ADAMW, "needs stage 1 or higher, not 0"),
        (zero(stage=2, offload_param=OFFLOAD), ADAMW, "offload_param.device cpu needs stage 3"),
        (zero(stage=2, offload_optimizer=OFFLOAD | {"ratio": 0.5}), ADAMW, "need stage 3, not 2"),
        (
            zero(stage=2, offload_optimizer={"devcie": "cpu"}),
            ADAMW,
            r"zero_optimization.offload_optimizer.devcie: unknown key \(did you mean device\?\)",
        ),
    ],
)
def test_offloading_that_cannot_be(refused: Any, raw: Any, config: Config, message: str) -> None:
    refused(message, raw, config, device="cuda")


def test_settings_of_groups(resolved: Any) -> None:
    raw = {
        "train_batch_size": 64,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "overlap_comm": True},
        "ssgear": {
            "D": {"zero_optimization": {"stage": 1}, "gradient_clipping": 5.0},
            "G": {"communication_data_type": "fp32"},
        },
    }
    result = resolved(raw)
    d, g, f = (result.for_group(name) for name in ("D", "G", "encoder"))
    assert "ssgear" not in result.ds | d | g | f
    assert d["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert d["gradient_clipping"] == 5.0 and d["train_batch_size"] == 64
    assert g["communication_data_type"] == "fp32" and g["zero_optimization"]["stage"] == 2
    assert f == result.ds
    f["zero_optimization"]["stage"] = 9
    assert result.for_group("encoder")["zero_optimization"]["stage"] == 2
    result.check_groups(("D", "G", "encoder"), "ds.json")
    with pytest.raises(
        ConfigError, match=r"ssgear.D: the method has no such group; it has encoder"
    ):
        result.check_groups(("encoder",), "ds.json")


@pytest.mark.parametrize(
    ("block", "config", "message"),
    [
        ({"train_batch_size": 3}, ADAMW, "ssgear.D.train_batch_size: is the same for all groups"),
        (
            {"zero_optimization": {"stag": 1}},
            ADAMW,
            r"ssgear.D.zero_optimization.stag: unknown key",
        ),
        ({"zero_optimization": {"stage": 1}}, LARS, "ssgear.D.zero_optimization.stage 1 cannot"),
        ({"amp": {}}, ADAMW, "not supported by ssgear: ssgear.D.amp"),
        ([], ADAMW, "is not a block"),
    ],
)
def test_settings_of_groups_that_cannot_be(
    refused: Any, block: Any, config: Config, message: str
) -> None:
    refused(message, {"ssgear": {"D": block}}, config)
