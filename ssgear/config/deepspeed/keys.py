"""What may stand in ds.json: DeepSpeed itself ignores a misspelt key without a word.

`KNOWN` maps the path of a block to its keys and the kind of each value; `check_block` refuses every
other key with the nearest known one, what ssgear does not support, and values of the wrong kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ssgear.errors import ConfigError, did_you_mean

Kinds = Mapping[str, str]
"""Key -> bool, count (whole, > 0), size (whole, >= 0), number, positive, text, list, or block."""

_MONITOR = {"enabled": "bool", "output_path": "text", "job_name": "text"}
_OFFLOAD = {"device": "text", "nvme_path": "text", "buffer_count": "size", "pin_memory": "bool"}
_ZERO = {
    "stage": "size",
    "contiguous_gradients": "bool",
    "reduce_scatter": "bool",
    "reduce_bucket_size": "count",
    "use_multi_rank_bucket_allreduce": "bool",
    "allgather_partitions": "bool",
    "allgather_bucket_size": "size",
    "overlap_comm": "bool",
    "compute_grad_norm": "bool",
    "load_from_fp32_weights": "bool",
    "offload_param": "block",
    "offload_optimizer": "block",
    "sub_group_size": "size",
    "ignore_unused_parameters": "bool",
    "round_robin_gradients": "bool",
    "parameter_alignment": "bool",
    "zero_hpz_partition_size": "size",
    "zero_quantized_weights": "bool",
    "zero_quantized_nontrainable_weights": "bool",
    "zero_quantized_gradients": "bool",
    "memory_efficient_linear": "bool",
    "override_module_apply": "bool",
    "log_trace_cache_warnings": "bool",
    "enable_sanity_checks": "bool",
}
_ZERO_3 = {
    "prefetch_bucket_size": "size",
    "param_persistence_threshold": "size",
    "model_persistence_threshold": "size",
    "max_live_parameters": "size",
    "max_reuse_distance": "size",
    "gather_16bit_weights_on_model_save": "bool",
    "module_granularity_threshold": "size",
    "use_all_reduce_for_fetch_params": "bool",
    "allgather_sequential": "bool",
}
PASSED_ON: Kinds = {
    "prescale_gradients": "bool",
    "gradient_predivide_factor": "positive",
    "communication_data_type": "text",
    "disable_allgather": "bool",
    "steps_per_print": "count",
    "wall_clock_breakdown": "bool",
    "memory_breakdown": "bool",
    "dump_state": "bool",
    "tensorboard": "block",
    "wandb": "block",
    "csv_monitor": "block",
    "comet": "block",
    "comms_logger": "block",
    "flops_profiler": "block",
    "timers": "block",
}
"""Top-level keys that DeepSpeed gets as they stand."""
KNOWN: Mapping[str, Kinds] = {
    "": {
        "train_batch_size": "count",
        "train_micro_batch_size_per_gpu": "count",
        "gradient_accumulation_steps": "count",
        "gradient_clipping": "number",
        "gradient_allreduce_op": "text",
        "bf16": "block",
        "bfloat16": "block",
        "fp16": "block",
        "torch_autocast": "block",
        "data_types": "block",
        "zero_optimization": "block",
        "zero_allow_untested_optimizer": "bool",
        "zero_force_ds_cpu_optimizer": "bool",
        "optimizer": "block",
        "scheduler": "block",
        "ssgear": "block",
        **PASSED_ON,
    },
    "zero_optimization": {
        **_ZERO,
        **_ZERO_3,
        **{f"stage3_{key}": kind for key, kind in _ZERO_3.items()},
    },
    "zero_optimization.offload_optimizer": {
        **_OFFLOAD,
        "pipeline_read": "bool",
        "pipeline_write": "bool",
        "fast_init": "bool",
        "ratio": "number",
        "super_offload": "bool",
        "cpuadam_cores_perc": "number",
    },
    "zero_optimization.offload_param": {**_OFFLOAD, "buffer_size": "size", "max_in_cpu": "size"},
    "bf16": {
        "enabled": "bool",
        "immediate_grad_update": "bool",
        "check_grad_overflow": "bool",
        "bf16_master_weights_and_grads": "bool",
        "bf16_optimizer_states": "bool",
    },
    "fp16": {
        "enabled": "bool",
        "auto_cast": "bool",
        "loss_scale": "number",
        "initial_scale_power": "size",
        "loss_scale_window": "count",
        "hysteresis": "size",
        "consecutive_hysteresis": "bool",
        "min_loss_scale": "count",
        "fp16_master_weights_and_grads": "bool",
    },
    "torch_autocast": {"enabled": "bool", "dtype": "text", "lower_precision_safe_modules": "list"},
    "data_types": {"grad_accum_dtype": "text"},
    "optimizer": {"type": "text", "params": "block"},
    "optimizer.params": {
        "lr": "positive",
        "betas": "list",
        "eps": "positive",
        "weight_decay": "number",
        "momentum": "number",
        "adam_w_mode": "bool",
        "torch_adam": "bool",
        "bias_correction": "bool",
        "amsgrad": "bool",
        "nesterov": "bool",
        "dampening": "number",
        "max_grad_norm": "number",
    },
    "scheduler": {"type": "text", "params": "block"},
    "tensorboard": _MONITOR,
    "csv_monitor": _MONITOR,
    "wandb": {"enabled": "bool", "group": "text", "team": "text", "project": "text"},
    "comet": {
        "enabled": "bool",
        "samples_log_interval": "count",
        "project": "text",
        "workspace": "text",
        "api_key": "text",
        "experiment_name": "text",
        "experiment_key": "text",
        "online": "bool",
        "mode": "text",
    },
    "comms_logger": {
        "enabled": "bool",
        "prof_all": "bool",
        "prof_ops": "list",
        "verbose": "bool",
        "debug": "bool",
    },
    "flops_profiler": {
        "enabled": "bool",
        "recompute_fwd_factor": "number",
        "profile_step": "count",
        "module_depth": "any",
        "top_modules": "count",
        "detailed": "bool",
        "output_file": "text",
    },
    "timers": {"throughput": "block"},
    "timers.throughput": {"enabled": "bool", "synchronized": "bool"},
}
_UNSUPPORTED = """
activation_checkpointing aio amp autotuning checkpoint compile compression_training
curriculum_learning data_efficiency dataloader_drop_last datastates_ckpt disable_python_gc
eigenvalue elasticity expert_parallel graph_harvesting hybrid_engine log_level
managed_gradient_accumulation nebula pipeline progressive_layer_drop quantize_training
seq_parallel_communication_data_type sequence_parallel_size sparse_attention sparse_gradients
tensor_parallel use_data_before_expert_parallelism vocabulary_size weight_quantization zenflow
"""
_ZERO_UNSUPPORTED = """
cpu_offload cpu_offload_param cpu_offload_use_pin_memory elastic_checkpoint leaf_module
legacy_stage1 mics_hierarchical_params_gather mics_shard_size pipeline_loading_checkpoint
save_muon_momentum_buffer_in_memory stage3_gather_fp16_weights_on_model_save zenflow
zeropp_loco_param
"""
UNSUPPORTED: Mapping[str, frozenset[str]] = {
    "": frozenset(_UNSUPPORTED.split()),
    "zero_optimization": frozenset(_ZERO_UNSUPPORTED.split()),
    "data_types": frozenset(("buffer_dtype", "keep_in_fp32_modules", "param_dtype")),
    "optimizer": frozenset(("legacy_fusion",)),
}


def check_block(
    block: object, path: str, where: str, *, kinds: Kinds | None = None, under: str = ""
) -> None:
    """Refuse unknown and unsupported keys and values of the wrong kind, in a block and below it.

    `path` is the block's place in `KNOWN`; `under` stands before it in errors, with its dot.
    """
    kinds = KNOWN[path] if kinds is None else kinds
    if not isinstance(block, Mapping):
        raise ConfigError(f"{where}: {under}{path}: {json.dumps(block)} is not a block {{...}}")
    for key, value in block.items():
        inner = f"{path}.{key}" if path else key
        if key in UNSUPPORTED.get(path, ()):
            raise ConfigError(f"{where}: not supported by ssgear: {under}{inner}")
        if key not in kinds:
            raise ConfigError(f"{where}: {under}{inner}: unknown key{did_you_mean(key, kinds)}")
        if value == "auto":
            continue
        if kinds[key] == "block" and inner in KNOWN:
            check_block(value, inner, where, under=under)
        else:
            check_value(value, kinds[key], f"{under}{inner}", where)


def check_value(value: Any, kind: str, shown: str, where: str) -> None:
    """Refuse a value that is not of its kind."""
    number = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    )
    whole = number and value == int(value)
    fits, expected = {
        "bool": (isinstance(value, bool), "true or false"),
        "count": (whole and value > 0, "a whole number above 0"),
        "size": (whole and value >= 0, "a whole number, 0 or more"),
        "number": (number and value >= 0, "a number, 0 or more"),
        "positive": (number and value > 0, "a number above 0"),
        "text": (value is None or isinstance(value, str), "a text"),
        "list": (isinstance(value, list), "a list"),
        "block": (isinstance(value, Mapping), "a block {...}"),
        "any": (True, ""),
    }[kind]
    if not fits:
        raise ConfigError(f"{where}: {shown}: {json.dumps(value)} is not {expected}")


def find_auto(value: object, path: str) -> list[str]:
    """Return the paths at which "auto" stands, in a value and below it."""
    if value == "auto":
        return [path]
    if not isinstance(value, Mapping):
        return []
    return [found for key, inner in value.items() for found in find_auto(inner, f"{path}.{key}")]


def plain_numbers(block: Mapping[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Return the block with whole numbers as int: JSON reads 2e8 as a float."""
    return {
        key: int(value) if kinds.get(key) in ("count", "size") and value != "auto" else value
        for key, value in block.items()
    }
