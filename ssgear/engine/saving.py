"""Saving and resuming a run: every rank's part into one folder that is complete or absent.

A checkpoint holds one part per group (written by the runtime) and, per rank, everything that is in
no group: buffers (batch statistics too: ranks on CPUs keep their own), random state, averages,
callbacks' state by name, bad files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssgear.data.sources import BadFile
from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from ssgear.errors import CheckpointError, first_line, refusing
from ssgear.storage import checkpoint
from ssgear.storage.atomic import commit_directory, remove_stale, staging_path


def save_checkpoint(run: Run, callbacks: Sequence[Callback]) -> Path | None:
    """Save a run on all ranks; on a full disk say so, leave nothing behind and return None."""
    final = run.directory / "checkpoints" / f"step-{run.step}"
    staged = Path(run.world.gather(str(staging_path(final)))[0])
    problem = _attempt(lambda: staged.mkdir(parents=True)) if run.world.is_main else None
    problem = _first(run.world.gather(problem))
    if problem is None:
        problem = _first(run.world.gather(_attempt(lambda: _write_parts(run, callbacks, staged))))
    if problem is None and run.world.is_main:
        problem = _attempt(lambda: _commit(run, staged, final))
    problem = _first(run.world.gather(problem))
    if problem is None:
        return final
    if run.world.is_main:
        shutil.rmtree(staged, ignore_errors=True)
    there = checkpoint.list_checkpoints(run.directory)
    last = there[-1].name if there else "none"
    run.log.note(
        run.step,
        f"could not save step {run.step}: {problem}; the run goes on, nothing half-written was "
        f"left, the last complete checkpoint is {last}",
    )
    return None


def _attempt(action: Callable[[], object]) -> str | None:
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _first(problems: Sequence[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _write_parts(run: Run, callbacks: Sequence[Callback], staged: Path) -> None:
    problem = _attempt(
        lambda: checkpoint.save_tensors(
            _rank_file(staged, run.world.rank), _own_state(run, callbacks)
        )
    )
    run.runtime.save(staged)  # collective: also where this rank's own file could not be written
    if problem is not None:
        raise OSError(problem)


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"


def _own_state(run: Run, callbacks: Sequence[Callback]) -> dict[str, Any]:
    return {
        "buffers": dict(run.method.named_buffers()),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
        "averages": {name: average.state_dict() for name, average in run.averages.items()},
        "callbacks": {name: each.state_dict() for name, each in _named(callbacks).items()},
        "bad_files": [(bad.where, bad.reason) for source in run.sources for bad in source.bad],
    }


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What is read of a checkpoint before a run is built."""

    step: int
    lost: tuple[BadFile, ...]
    """Images that the run had lost (data/order/missing.py)."""


def read_saved(folder: Path) -> Saved:
    """Read a checkpoint's manifest, after checking that every file is whole."""
    meta = checkpoint.read_manifest(folder)
    lost = tuple(BadFile(name, reason) for name, reason in meta.get("lost", []))
    return Saved(step=int(meta["step"]), lost=lost)


def _commit(run: Run, staged: Path, final: Path) -> None:
    meta = {
        "step": run.step,
        "images_seen": run.images_seen,
        "seconds": run.meter.elapsed,
        "time_s": run.meter.parts,
        "world_size": run.world.size,
        "runtime": run.runtime.name,
        "num_images": len(run.source),
        "num_synthetic": run.loader.sampler.num_synthetic,
        "lost": [(lost.name, lost.reason) for lost in run.loader.lost.files()]
        if run.loader.lost
        else [],
        "num_stored": 0 if run.stored is None else len(run.stored.source),
    }
    checkpoint.write_manifest(staged, meta)
    commit_directory(staged, final)
    checkpoint.point_latest(run.directory, final)
    for old in checkpoint.list_checkpoints(run.directory)[: -run.config.checkpoint.keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(run: Run, callbacks: Sequence[Callback], folder: Path) -> None:
    """Bring a freshly built run to where a checkpoint was saved; called on all ranks."""
    meta = checkpoint.read_manifest(folder)
    _check_same(run, meta, folder)
    if run.world.is_main:
        remove_stale(folder.parent)
    run.runtime.load(folder)
    state = checkpoint.load_tensors(_rank_file(folder, run.world.rank))
    _load_buffers(run, state["buffers"], folder)
    run.method.after_load()
    for name, average in run.averages.items():
        average.load_state_dict(state["averages"][name])
    run.step, run.images_seen = meta["step"], meta["images_seen"]
    _load_callbacks(run, callbacks, state["callbacks"], folder)
    torch.set_rng_state(state["random"])
    if state["cuda_random"] is not None and run.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_random"], run.device)
    run.meter.load(meta["seconds"], meta.get("time_s", {}))


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Return callbacks by the name of their class; a second one of a class has a number."""
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name = type(callback).__qualname__
        same = sum(key.split(" ")[0] == name for key in named)
        named[f"{name} {same + 1}" if same else name] = callback
    return named


def _load_buffers(run: Run, kept: dict[str, Tensor], folder: Path) -> None:
    buffers = dict(run.method.named_buffers())
    for name in sorted(kept.keys() | buffers.keys()):
        there, here = (
            str(list(some[name].shape)) if name in some else "none" for some in (kept, buffers)
        )
        if there != here:
            raise CheckpointError(
                f"{folder}: its buffer {name} is {there}, that of this version's method {here}; "
                "continue with the version that wrote it, or start a new run"
            )
        buffers[name].copy_(kept[name])


def _load_callbacks(
    run: Run,
    callbacks: Sequence[Callback],
    kept: dict[str, dict[str, Any]],
    folder: Path,
) -> None:
    """Give callbacks their states back by name; one that the checkpoint does not know starts anew.

    No callback changes what is trained, so that the run goes on bit for bit all the same.
    """
    named = _named(callbacks)
    for name, callback in named.items():
        if name not in kept and callback.state_dict():
            run.log.note(run.step, f"{folder.name} knows nothing of {name}: it starts anew")
        elif name in kept:
            with refusing((KeyError, TypeError, ValueError), _of_another_version(folder, name)):
                callback.load_state_dict(kept[name])


def _of_another_version(folder: Path, name: str) -> Callable[[Exception], CheckpointError]:
    return lambda error: CheckpointError(
        f"{folder}: the state of {name} is another version's ({first_line(error)}); continue with "
        "the version that wrote it, or start a new run"
    )


def _check_same(run: Run, meta: dict[str, Any], folder: Path) -> None:
    if meta["world_size"] != run.world.size:
        raise CheckpointError(
            f"{folder}: was saved by {meta['world_size']} rank(s), {run.world.size} are running; "
            f"start {meta['world_size']} to continue it bit for bit"
        )
    if meta["runtime"] != run.runtime.name:
        raise CheckpointError(
            f"{folder}: was saved by the {meta['runtime']} runtime; continue with the same one"
        )
    if meta["num_images"] != len(run.source):
        raise CheckpointError(
            f"{folder}: was trained on {meta['num_images']} images, now {len(run.source)} can be "
            "read; restore the data, or start a new run"
        )
    synthetic = meta.get("num_synthetic", 0)
    if synthetic != run.loader.sampler.num_synthetic:
        raise CheckpointError(
            f"{folder}: was trained with {synthetic} synthetic images, now there are "
            f"{run.loader.sampler.num_synthetic}; restore the store (generated anew with that "
            "--count it is the same), or start a new run"
        )
    stored = meta.get("num_stored", 0)
    now = 0 if run.stored is None else len(run.stored.source)
    if stored != now:
        raise CheckpointError(
            f"{folder}: was trained with {stored} stored views, now there are {now}; restore the "
            "store of --views.store, or start a new run"
        )
