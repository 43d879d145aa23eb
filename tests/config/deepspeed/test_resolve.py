"""Reading ds.json, a file as people have it, and what DeepSpeed makes of the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ssgear.config.schema import Config, OptimConfig

LARS = Config()
HUGGING_FACE = {
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "bf16": {"enabled": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "total_num_steps": "auto",
            "warmup_min_lr": "auto",
            "warmup_max_lr": "auto",
            "warmup_num_steps": "auto",
        },
    },
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "allgather_partitions": True,
        "allgather_bucket_size": 2e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": "auto",
        "contiguous_gradients": True,
        "stage3_max_live_parameters": 1e9,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
OFFLOAD = {"device": "cpu", "pin_memory": True}


def zero(**block: Any) -> dict[str, Any]:
    return {"zero_optimization": block}


def test_a_typical_file(resolved: Any) -> None:
    result = resolved(HUGGING_FACE, device="cuda", world=2)
    assert result.ds["zero_optimization"]["offload_optimizer"] == OFFLOAD
    assert result.ds["train_micro_batch_size_per_gpu"] == 128
    assert result.zero_stage == 2 and result.schedule is not None and result.cpu_adam
    assert all("\n" not in note for note in result.notes) and len(result.notes) >= 3


def python(script: str, *args: str) -> str:
    free = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args],
        env=os.environ | free | {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_nothing_heavy_is_imported() -> None:
    python(
        "import ssgear.config.deepspeed, sys; assert not {'torch', 'deepspeed'} & set(sys.modules)"
    )


def test_deepspeed_takes_what_was_resolved(resolved: Any, tmp_path: Path) -> None:
    """Two steps of DeepSpeed on the CPU equal two steps of torch, clipping included."""
    pytest.importorskip("deepspeed")
    loud = {"gradient_clipping": 0.5, "train_batch_size": 8}
    cases = [
        resolved(HUGGING_FACE | {"train_batch_size": 8}),
        resolved(zero(stage=0) | loud, LARS),
        resolved(zero(stage=1) | loud, Config(optim=OptimConfig(name="sgd"))),
        resolved(
            zero(stage=2) | loud | {"train_micro_batch_size_per_gpu": 8, "bf16": {"enabled": True}}
        ),
    ]
    (tmp_path / "cases.json").write_text(
        json.dumps(
            [[c.ds, c.config.optim.name, c.config.optim.lr, c.config.optim.clip] for c in cases]
        )
    )
    output = python(
        """
        import json, sys, torch, deepspeed, deepspeed.ops
        from torch import nn
        deepspeed.ops.__compatible_ops__ = {}  # it would compile an operator of its own first
        from ssgear.optim import build_optimizer
        def net():
            torch.manual_seed(0)
            return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3))
        x = torch.randn(8, 3, 5, 5)
        loss = lambda y: y.square().sum() * 10
        init = f"file://{sys.argv[2]}"
        deepspeed.init_distributed("gloo", init_method=init, rank=0, world_size=1)
        for ds, name, lr, clip in json.load(open(sys.argv[1])):
            ours, theirs = net(), net()
            def optimizer(model):
                return build_optimizer(
                    model.named_parameters(), name=name, lr=lr, weight_decay=0.1, momentum=0.9
                )
            plain = optimizer(ours)
            engine, *_ = deepspeed.initialize(model=theirs, optimizer=optimizer(theirs), config=ds)
            assert engine.gradient_clipping() == clip
            for _ in range(2):
                plain.zero_grad()
                loss(ours(x)).backward()
                if clip:
                    nn.utils.clip_grad_norm_(ours.parameters(), clip)
                plain.step()
                engine.backward(loss(engine(x)))
                engine.step()
            pairs = zip(ours.parameters(), theirs.parameters())
            worst = max(float((a - b).abs().max()) for a, b in pairs)
            print("case", ds["zero_optimization"]["stage"], name, worst)
            assert worst < 1e-5, worst
        """,
        str(tmp_path / "cases.json"),
        str(tmp_path / "rendezvous"),
    )
    assert output.count("case ") == len(cases)
