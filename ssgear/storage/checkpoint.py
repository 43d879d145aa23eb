"""A checkpoint is a folder `checkpoints/step-N` that is complete or absent.

Its files are written into a staging folder, listed with size and digest in `manifest.json`, fsynced
and renamed by rank 0 when every rank has finished; then `latest` is renamed over. Tensors are read
with `weights_only=True`: nothing in a checkpoint can run code. `read_manifest` finds out whether a
folder is whole before anything is loaded from it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssgear.errors import CheckpointError, first_line, refusing
from ssgear.storage.atomic import write_bytes, write_text
from ssgear.storage.json_files import read_object, reading

MANIFEST = "manifest.json"
LATEST = "latest"


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors, numbers and strings; OSError where the disk is full."""
    # torch's own zip writer turns a full disk into a RuntimeError of its own: serialise first, then
    # write
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getbuffer())


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, on the CPU, running no code from the file."""

    def refusal(error: Exception) -> CheckpointError:
        if isinstance(error, FileNotFoundError):
            return CheckpointError(f"{path}: not there; the checkpoint is incomplete")
        return CheckpointError(f"{path}: cannot be read as a checkpoint: {first_line(error)}")

    with refusing(Exception, refusal):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds {type(loaded).__name__}, not a checkpoint")
    return loaded


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def write_manifest(folder: Path, meta: Mapping[str, Any]) -> None:
    """List every file of a checkpoint with its size and digest.

    The last file that is written into it.
    """
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "digest": _digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"files": files, "meta": dict(meta)}, indent=1)
    write_bytes(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's meta data after checking that every file is whole."""
    absent = CheckpointError(f"{folder}: no {MANIFEST} in it; this is no complete checkpoint")
    file = folder / MANIFEST
    with (
        reading(file, CheckpointError, hint=lambda: _older(folder)),
        refusing(FileNotFoundError, lambda _: absent),
    ):
        manifest = read_object(file)
        files, meta = dict(manifest["files"]), dict(manifest["meta"])
    for name, entry in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size != entry["bytes"]:
            raise CheckpointError(
                f"{path}: has {size} bytes, {entry['bytes']} were written; the checkpoint is "
                f"truncated{_older(folder)}"
            )
        if _digest(path) != entry["digest"]:
            raise CheckpointError(
                f"{path}: its content has changed since it was written{_older(folder)}"
            )
    return meta


def _older(folder: Path) -> str:
    """Say which complete checkpoint stands before this one."""
    step = step_of(folder)
    older = [path for path in list_checkpoints(folder.parent.parent) if step_of(path) < step]
    if not older:
        return "; there is no older one: start the run again"
    return f"; an older one is there: delete {folder.name} to resume from {older[-1].name}"


def step_of(folder: Path) -> int:
    """Return N of a folder named step-N."""
    return int(folder.name.removeprefix("step-"))


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    folders = (path for path in (run / "checkpoints").glob("step-*") if path.is_dir())
    return sorted((path for path in folders if path.name[5:].isdigit()), key=step_of)


def find_latest(run: Path) -> Path:
    """Return the newest checkpoint of a run, or say what is missing."""
    if not run.is_dir():
        raise CheckpointError(f"--resume: {run} is not a folder; give a run's directory")
    if not (run / "config.json").is_file():
        raise CheckpointError(
            f"--resume: {run} holds no config.json; it is not the directory of a run"
        )
    there = list_checkpoints(run)
    if not there:
        raise CheckpointError(
            f"--resume: {run} holds no checkpoint; start the run again with another --output"
        )
    # `latest` is written after the rename: a kill between the two leaves it one behind, and it may
    # be deleted by hand
    return there[-1]


def last_saved(run: Path) -> str:
    """Tell in words which checkpoint a run that ends here has."""
    there = list_checkpoints(run)
    return f"the last checkpoint is {there[-1].name}" if there else "no checkpoint was saved"


def point_latest(run: Path, folder: Path) -> None:
    """Name the newest complete checkpoint in `checkpoints/latest`."""
    write_text(run / "checkpoints" / LATEST, folder.name + "\n")
