"""Batch, clipping and precision: a table of what is taken, and of what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ssgear.config.schema import Config, EngineConfig, OptimConfig

ADAMW = Config(optim=OptimConfig(name="adamw", lr=1e-3))


BATCHES = [
    # ds.json: batch, micro, steps; argv: batch, micro; ranks -> batch, micro, steps
    ((None, None, None), (None, None), 1, (256, 256, 1)),
    ((None, None, None), (512, None), 2, (512, 256, 1)),
    ((None, None, None), (512, 64), 2, (512, 64, 4)),
    ((None, None, None), (64, 512), 2, (64, 32, 1)),
    (("auto", "auto", "auto"), (96, None), 3, (96, 32, 1)),
    ((512, None, None), (None, None), 2, (512, 256, 1)),
    ((512, None, None), (512, 128), 2, (512, 128, 2)),
    ((512, 64, None), (None, None), 2, (512, 64, 4)),
    ((512, None, 4), (None, None), 2, (512, 64, 4)),
    ((None, 64, 4), (None, None), 2, (512, 64, 4)),
    ((None, 64, 4), (512, 64), 2, (512, 64, 4)),
    ((None, 32, None), (None, None), 2, (64, 32, 1)),
    ((None, 32, None), (128, None), 2, (128, 32, 2)),
    ((None, 32, "auto"), (None, None), 2, (256, 32, 4)),
    (("auto", 32, "auto"), (None, None), 2, (256, 32, 4)),
    ((None, None, 4), (None, None), 2, (256, 32, 4)),
    ((512, 64, 4), (None, None), 2, (512, 64, 4)),
    ((2e2, 50, 4.0), (None, None), 1, (200, 50, 4)),
]


def batch_keys(values: tuple[Any, Any, Any]) -> dict[str, Any]:
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def argv_of(batch: int | None, micro: int | None) -> dict[str, Any]:
    given = {"optim.batch_size": batch, "optim.micro_batch": micro}
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize(("in_file", "in_argv", "world", "expected"), BATCHES)
def test_batch_sizes(resolved: Any, in_file: Any, in_argv: Any, world: int, expected: Any) -> None:
    result = resolved(batch_keys(in_file), argv=argv_of(*in_argv), world=world)
    assert {key: result.ds[key] for key in batch_keys(expected)} == batch_keys(expected)
    batch, micro, steps = expected
    assert result.config.optim.batch_size == batch
    assert result.config.optim.micro_batch == (micro if steps > 1 else None)
    assert any("gradient caching" in note for note in result.notes) == (steps > 1)


def test_a_batch_that_cannot_be_cut_is_computed_whole(resolved: Any) -> None:
    sizes = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    result = resolved(sizes, world=3, cacheable=False)
    assert (result.config.optim.batch_size, result.config.optim.micro_batch) == (24, None)
    told = [note for note in result.notes if note.startswith("gradient_accumulation_steps 2")]
    assert len(told) == 1 and "computes its 8 images at once" in told[0]
    assert not any("gradient caching" in note for note in result.notes)


@pytest.mark.parametrize(
    ("in_file", "in_argv", "world", "message"),
    [
        (
            (512, None, None),
            (256, None),
            1,
            "train_batch_size 512 contradicts --optim.batch-size 256",
        ),
        ((None, 64, 4), (256, None), 2, r"64 \* .*steps 4 \* 2 ranks = 512 contradicts --optim.ba"),
        ((512, 64, 2), (None, None), 1, r"512 is not .*gpu 64 \* .*steps 2 \* 1 rank \(= 128\)"),
        ((512, None, None), (None, None), 3, r"512 is not .* 170 \* .* 1 \* 3 ranks \(= 510\)"),
        ((100, 32, None), (None, None), 1, r"100 is not .* 32 \* .* 3 \* 1 rank \(= 96\)"),
        ((64, None, 128), (None, None), 1, r"64 is not"),
        ((64, 128, None), (None, None), 1, r"64 is not"),
        ((512, 64, None), (None, 32), 1, "gpu 64 contradicts --optim.micro-batch 32"),
        ((512, None, 4), (None, 32), 1, "steps 4 contradicts --optim.micro-batch 32"),
        ((0, None, None), (None, None), 1, "train_batch_size: 0 is not a whole number above 0"),
        ((2.5, None, None), (None, None), 1, "train_batch_size: 2.5 is not a whole"),
        ((True, None, None), (None, None), 1, "train_batch_size: true is not a whole"),
        (("512", None, None), (None, None), 1, 'train_batch_size: "512" is not a whole'),
    ],
)
def test_batch_sizes_that_cannot_be(
    refused: Any, in_file: Any, in_argv: Any, world: int, message: str
) -> None:
    refused(message, batch_keys(in_file), argv=argv_of(*in_argv), world=world)


def test_batch_of_the_file_is_told(resolved: Any) -> None:
    assert any("512" in n and "256" in n for n in resolved({"train_batch_size": 512}).notes)


@pytest.mark.parametrize(
    ("raw", "clip", "expected"),
    [
        ({}, 0.0, 0.0),
        ({}, 2.5, 2.5),
        ({"gradient_clipping": "auto"}, 0.0, 0.0),
        ({"gradient_clipping": "auto"}, 2.5, 2.5),
        ({"gradient_clipping": 1}, 0.0, 1.0),
        ({"gradient_clipping": 0}, 2.5, 0.0),
    ],
)
def test_clipping_is_always_written(
    resolved: Any, raw: dict[str, Any], clip: float, expected: float
) -> None:
    config = Config(optim=OptimConfig(name="adamw", clip=clip))
    result = resolved(raw, config)
    assert result.ds["gradient_clipping"] == result.config.optim.clip == expected
    assert bool(result.notes) == (raw.get("gradient_clipping") == "auto")


def test_clipping_contradicts(refused: Any) -> None:
    message = "gradient_clipping 1.0 contradicts --optim.clip 0.5"
    refused(message, {"gradient_clipping": 1.0}, argv={"optim.clip": 0.5})
    refused("gradient_clipping: -1 is not", {"gradient_clipping": -1})


ON, OFF, AUTO = {"enabled": True}, {"enabled": False}, {"enabled": "auto"}
BF16 = Config(optim=ADAMW.optim, engine=EngineConfig(precision="bf16"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("raw", "config", "expected"),
    [
        ({}, ADAMW, "float32"),
        ({}, BF16, "bf16"),
        ({"bf16": ON}, ADAMW, "bf16"),
        ({"bfloat16": ON}, ADAMW, "bf16"),
        ({"torch_autocast": ON | {"dtype": "bfloat16"}}, ADAMW, "bf16"),
        ({"torch_autocast": ON}, ADAMW, "bf16"),
        ({"bf16": OFF}, BF16, "float32"),
        ({"bf16": AUTO}, BF16, "bf16"),
        ({"bf16": AUTO, "fp16": AUTO}, BF16, "bf16"),
        ({"bf16": AUTO, "fp16": AUTO}, ADAMW, "float32"),
        ({"bf16": "auto"}, BF16, "bf16"),
        ({"fp16": OFF, "bf16": ON}, ADAMW, "bf16"),
        ({"fp16": OFF}, BF16, "bf16"),
        ({"data_types": {"grad_accum_dtype": "fp32"}}, ADAMW, "float32"),
    ],
)
def test_precision(
    resolved: Any, raw: dict[str, Any], config: Config, expected: str, device: Any
) -> None:
    result = resolved(raw, config, device=device)
    assert result.config.engine.precision == expected
    assert not {"bf16", "bfloat16", "fp16", "torch_autocast"} & set(result.ds)


@pytest.mark.parametrize(
    ("raw", "argv", "message"),
    [
        ({"fp16": ON}, {}, "fp16.enabled: ssgear does not train float16 weights"),
        ({"fp16": ON, "bf16": ON}, {}, "bf16 and fp16 are both enabled"),
        ({"bf16": ON, "torch_autocast": ON}, {}, "bf16 and torch_autocast are both enabled"),
        ({"bf16": ON, "bfloat16": ON}, {}, "the same block"),
        (
            {"bf16": ON},
            {"engine.precision": "float32"},
            "bf16.enabled true contradicts --engine.precision float32",
        ),
        (
            {"bf16": OFF},
            {"engine.precision": "bf16"},
            "bf16.enabled false contradicts --engine.precision bf16",
        ),
        ({"bf16": ON | {"bf16_optimizer_states": True}}, {}, "bf16.bf16_optimizer_states"),
        ({"torch_autocast": ON | {"dtype": "float16"}}, {}, "torch_autocast.dtype: float16"),
        (
            {"torch_autocast": ON | {"lower_precision_safe_modules": []}},
            {},
            "not supported by ssgear: torch_autocast.lower_precision_safe_modules",
        ),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, {}, "data_types.grad_accum_dtype bf16"),
        ({"data_types": {"param_dtype": "bf16"}}, {}, "not supported by ssgear: data_types.param"),
        ({"bf16": {"enabeld": True}}, {}, r"bf16.enabeld: unknown key \(did you mean enabled\?\)"),
        ({"bf16": True}, {}, r"bf16: true is not a block"),
        ({"bf16": {"enabled": "yes"}}, {}, 'bf16.enabled: "yes" is not true or false'),
    ],
)
def test_precision_that_cannot_be(refused: Any, raw: Any, argv: Any, message: str) -> None:
    refused(message, raw, argv=argv)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float16_weights_are_refused(refused: Any, device: str) -> None:
    raw = {"fp16": ON | {"loss_scale": 0, "initial_scale_power": 16.0, "hysteresis": "auto"}}
    refused("fp16.enabled: .* float32, which they cannot take; use bf16$", raw, device=device)
