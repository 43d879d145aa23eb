"""The DeepSpeed runtime.

One engine per group, ZeRO 0 to 3, driven by a `ds.json` that was checked and completed. What
DeepSpeed (0.19) decides silently is decided here aloud: the accumulation boundary is set by the
trainer, losses are not rescaled, gradients are checked before a step is taken, and checkpoints go
through an engine of ours that loads with `weights_only=True` and an allow-list.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.config.deepspeed import ResolvedDeepSpeed
from ssgear.config.schema import OptimConfig
from ssgear.distributed import World
from ssgear.engine.runtime import Runtime, optimizer_of, trained
from ssgear.errors import CheckpointError, MissingDependencyError, refusing
from ssgear.methods.base import Group, Method, Phase

TAG = "part"


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed quietly, or say what to install."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with refusing(ImportError, _not_installed):
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    module: ModuleType = deepspeed
    return module


def _not_installed(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"--deepspeed: DeepSpeed cannot be imported ({error}); install it with "
        f'pip install "ssgear[deepspeed]", or leave --deepspeed out'
    )


class DeepSpeedRuntime(Runtime):
    """Every group in a DeepSpeed engine of its own."""

    name = "deepspeed"

    def __init__(
        self,
        method: Method,
        config: OptimConfig,
        world: World,
        *,
        bf16: bool = False,
        resolved: ResolvedDeepSpeed,
    ) -> None:
        """Wrap each group in an engine with the settings that a checked ds.json came to."""
        super().__init__(method, config, world, bf16=bf16)
        self.zero_stage = resolved.zero_stage
        if resolved.schedule is not None:
            self.factor = resolved.schedule
        resolved.check_groups(list(self.groups), "--deepspeed")
        deepspeed = import_deepspeed()
        _join(deepspeed)
        self.engines = {
            group.name: _engine(deepspeed, group, config, resolved) for group in method.groups
        }

    def root(self, group: str) -> Callable[..., Any]:
        """Return the group's engine: ZeRO-3 gathers weights by its hooks."""
        engine: Callable[..., Any] = self.engines[group]
        return engine

    def backward(self, phase: Phase, loss: Tensor, *, last: bool = True) -> None:
        """Accumulate gradients; the engine averages them over ranks at the boundary."""
        engine = self.engines[phase.group]
        engine.set_gradient_accumulation_boundary(last)
        self._finite = torch.isfinite(loss.detach())
        engine.backward(loss, scale_wrt_gas=False)

    def step(self, phase: Phase) -> Tensor:
        """Step the group's engine if loss and gradients are finite on every rank."""
        engine = self.engines[phase.group]
        finite = self._finite
        if self.zero_stage == 0:
            # stage 0 in float32 would write NaN into the weights without a word
            gradients = [p.grad for _, p in trained(self.groups[phase.group]) if p.grad is not None]
            finite = finite & torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        if self.world.max_flag(not bool(finite)):
            engine.zero_grad()
            return torch.tensor(False)
        engine.step()
        return torch.tensor(bool(engine.was_step_applied()))

    def optimizer(self, group: str) -> torch.optim.Optimizer:
        """Return the optimiser whose parameter groups the engine reads."""
        optimizer: torch.optim.Optimizer = self.engines[group].optimizer
        return optimizer

    @contextmanager
    def gathered(self, group: str) -> Iterator[None]:
        """Gather a group's partitioned weights (ZeRO-3) inside the block.

        Others hold them whole.
        """
        if self.zero_stage < 3:
            yield
            return
        deepspeed = import_deepspeed()
        with deepspeed.zero.GatheredParameters(list(self.groups[group].parameters())):
            yield

    def save(self, folder: Path) -> None:
        """Let every engine write its part; collective."""
        for name, engine in self.engines.items():
            engine.save_checkpoint(str(folder / f"group-{name}"), tag=TAG, save_latest=False)
        for engine in self.engines.values():
            engine.checkpoint_engine.raise_error()

    def load(self, folder: Path) -> None:
        """Let every engine read its part."""
        for name, engine in self.engines.items():
            part = folder / f"group-{name}"
            # DeepSpeed answers a missing folder with (None, None) and trains from nothing
            path, _ = engine.load_checkpoint(str(part), tag=TAG)
            if path is None:
                raise CheckpointError(f"{part}: DeepSpeed found no checkpoint of group {name} here")


def _join(deepspeed: ModuleType) -> None:
    """Give DeepSpeed the ranks that are there; a single process is a group of one."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=cast(Any, dist).HashStore(), rank=0, world_size=1)
    if not torch.cuda.is_available():
        # else DeepSpeed compiles a shared-memory all-reduce, for minutes; gloo serves as well
        deepspeed.ops.__compatible_ops__ = {}
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asserts that a launcher set it
    # without the environment variables of a launcher DeepSpeed would look for MPI
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


def _engine(
    deepspeed: ModuleType, group: Group, config: OptimConfig, resolved: ResolvedDeepSpeed
) -> Any:
    optimizer = optimizer_of(group, config, betas=resolved.betas)
    if resolved.cpu_adam:
        # untested on hardware: the state lives on the CPU, where only DeepSpeed's own Adam steps it
        optimizer = deepspeed.ops.adam.DeepSpeedCPUAdam(optimizer.param_groups)
    engine, *_ = deepspeed.initialize(
        model=group, optimizer=optimizer, config=resolved.for_group(group.name)
    )
    engine.checkpoint_engine = _safe_checkpoint_engine()
    return engine


def _safe_checkpoint_engine() -> Any:
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class SafeCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
        """Files by torch.save, read back with `weights_only=True` and an allow-list."""

        error: OSError | None = None

        def create(self, info: Any) -> None:
            """Need no preparation: the trainer made the staging folder."""

        def save(self, state_dict: Any, path: str) -> None:
            """Write one file; the trainer syncs and renames the whole folder."""
            from ssgear.storage.checkpoint import save_tensors

            try:
                save_tensors(Path(path), state_dict)
            except OSError as error:
                # kept until every rank is through the collective save: the others must not wait
                # forever
                self.error = error

        def raise_error(self) -> None:
            """Raise what went wrong while saving."""
            error, self.error = self.error, None
            if error is not None:
                raise error

        def load(self, path: str, map_location: Any = None) -> Any:
            """Read one file, running no code from it."""
            with torch.serialization.safe_globals(_allowed()):
                return torch.load(path, map_location=map_location, weights_only=True)

        def commit(self, info: Any) -> bool:
            """Leave the commit to the trainer's rename."""
            return True

    return SafeCheckpointEngine()


def _allowed() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
