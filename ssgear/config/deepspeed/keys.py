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


def by_kind(**keys: str) -> dict[str, str]:
    """Return the keys of a block, written as words by their kind, with the kind of each."""
    return {key: kind for kind, names in keys.items() for key in names.split()}


_MONITOR = by_kind(bool="enabled", text="output_path job_name")
_SWITCH = by_kind(bool="enabled")
_OFFLOAD = by_kind(text="device nvme_path", size="buffer_count", bool="pin_memory")
_ZERO = by_kind(
    size="stage allgather_bucket_size sub_group_size zero_hpz_partition_size",
    count="reduce_bucket_size",
    block="offload_param offload_optimizer",
    bool="contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions "
    "overlap_comm compute_grad_norm load_from_fp32_weights ignore_unused_parameters "
    "round_robin_gradients parameter_alignment zero_quantized_weights "
    "zero_quantized_nontrainable_weights zero_quantized_gradients memory_efficient_linear "
    "override_module_apply log_trace_cache_warnings enable_sanity_checks",
)
_ZERO_3 = by_kind(
    size="prefetch_bucket_size param_persistence_threshold model_persistence_threshold "
    "max_live_parameters max_reuse_distance module_granularity_threshold",
    bool="gather_16bit_weights_on_model_save use_all_reduce_for_fetch_params allgather_sequential",
)
PASSED_ON = by_kind(
    bool="prescale_gradients disable_allgather wall_clock_breakdown memory_breakdown dump_state",
    positive="gradient_predivide_factor",
    text="communication_data_type",
    count="steps_per_print",
    block="tensorboard wandb csv_monitor comet comms_logger flops_profiler timers",
)
"""Top-level keys that DeepSpeed gets as they stand."""
KNOWN: Mapping[str, Kinds] = {
    "": by_kind(
        count="train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps",
        number="gradient_clipping",
        text="gradient_allreduce_op",
        bool="zero_allow_untested_optimizer zero_force_ds_cpu_optimizer",
        block="bf16 bfloat16 fp16 torch_autocast data_types zero_optimization optimizer scheduler "
        "ssgear",
    )
    | PASSED_ON,
    "zero_optimization": _ZERO | _ZERO_3 | {f"stage3_{key}": _ZERO_3[key] for key in _ZERO_3},
    "zero_optimization.offload_optimizer": _OFFLOAD
    | by_kind(
        bool="pipeline_read pipeline_write fast_init super_offload",
        number="ratio cpuadam_cores_perc",
    ),
    "zero_optimization.offload_param": _OFFLOAD | by_kind(size="buffer_size max_in_cpu"),
    "bf16": _SWITCH
    | by_kind(
        bool="immediate_grad_update check_grad_overflow bf16_master_weights_and_grads "
        "bf16_optimizer_states"
    ),
    "fp16": _SWITCH
    | by_kind(
        bool="auto_cast consecutive_hysteresis fp16_master_weights_and_grads",
        number="loss_scale",
        size="initial_scale_power hysteresis",
        count="loss_scale_window min_loss_scale",
    ),
    "torch_autocast": _SWITCH | by_kind(text="dtype", list="lower_precision_safe_modules"),
    "data_types": by_kind(text="grad_accum_dtype"),
    "optimizer": by_kind(text="type", block="params"),
    "optimizer.params": by_kind(
        positive="lr eps",
        list="betas",
        number="weight_decay momentum dampening max_grad_norm",
        bool="adam_w_mode torch_adam bias_correction amsgrad nesterov",
    ),
    "scheduler": by_kind(text="type", block="params"),
    "tensorboard": _MONITOR,
    "csv_monitor": _MONITOR,
    "wandb": _SWITCH | by_kind(text="group team project"),
    "comet": by_kind(
        bool="enabled online",
        count="samples_log_interval",
        text="project workspace api_key experiment_name experiment_key mode",
    ),
    "comms_logger": by_kind(bool="enabled prof_all verbose debug", list="prof_ops"),
    "flops_profiler": by_kind(
        bool="enabled detailed",
        number="recompute_fwd_factor",
        count="profile_step top_modules",
        any="module_depth",
        text="output_file",
    ),
    "timers": by_kind(block="throughput"),
    "timers.throughput": by_kind(bool="enabled synchronized"),
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
