"""Keys that are passed on, unsupported, unknown, or of the wrong kind."""

from __future__ import annotations

from typing import Any

import pytest

from ssgear.config.deepspeed.keys import KNOWN, UNSUPPORTED


def test_keys_that_are_passed_on(resolved: Any) -> None:
    raw = {
        "prescale_gradients": False,
        "gradient_predivide_factor": 2.0,
        "communication_data_type": "fp32",
        "steps_per_print": 10.0,
        "wall_clock_breakdown": True,
        "tensorboard": {"enabled": False, "output_path": "x"},
        "comms_logger": {"enabled": True, "prof_ops": ["all_reduce"]},
        "flops_profiler": {"enabled": False, "profile_step": 1},
        "timers": {"throughput": {"enabled": False}},
    }
    result = resolved(raw)
    assert {key: result.ds[key] for key in raw} == raw and result.ds["steps_per_print"] == 10
    assert resolved({"gradient_allreduce_op": "mean"}).ds.keys() == resolved({}).ds.keys()


@pytest.mark.parametrize("key", sorted(UNSUPPORTED[""]))
def test_unsupported_keys(refused: Any, key: str) -> None:
    refused(f"^ds.json: not supported by ssgear: {key}$", {key: {}})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"gradient_cliping": 1},
            r"gradient_cliping: unknown key \(did you mean gradient_clipping",
        ),
        ({"xyzzy": 1}, "^ds.json: xyzzy: unknown key$"),
        ({"steps_per_print": "auto"}, 'steps_per_print: "auto" has no meaning here'),
        ({"tensorboard": {"enabled": "auto"}}, 'tensorboard.enabled: "auto" has no meaning'),
        ({"tensorboard": {"enable": True}}, r"tensorboard.enable: unknown key \(did you mean en"),
        ({"timers": {"throughput": {"enable": 1}}}, "timers.throughput.enable: unknown key"),
        ({"communication_data_type": "int8"}, "communication_data_type: int8 is not fp16, bf16 or"),
        ({"gradient_predivide_factor": 0}, "gradient_predivide_factor: 0 is not a number above 0"),
        ({"gradient_clipping": float("inf")}, "gradient_clipping: Infinity is not"),
        ({"wall_clock_breakdown": 1}, "wall_clock_breakdown: 1 is not true or false"),
    ],
)
def test_other_bad_keys(refused: Any, raw: dict[str, Any], message: str) -> None:
    refused(message, raw)


def test_every_block_that_is_known_has_its_keys() -> None:
    for path in KNOWN:
        if path:
            parent, _, key = path.rpartition(".")
            assert KNOWN[parent][key] == "block"
        assert not KNOWN[path].keys() & UNSUPPORTED.get(path, frozenset())
