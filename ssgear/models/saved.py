"""Networks as two plain files: NAME.safetensors, and NAME.json that says what the numbers are of.

Encoders and generators are written and read through here. Both files appear together or not at all;
the description holds a digest of the weights, so that files of two runs are not mixed up. They hold
numbers and names only: reading them runs no code.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import ssgear
from ssgear.errors import CheckpointError, ConfigError, SsgearError, refusing
from ssgear.storage.atomic import Json, json_text, write_files

FORMAT = 1


def write(module: nn.Module, directory: Path, name: str, fields: Mapping[str, Json]) -> None:
    """Write the weights of a module as they are, and the fields that describe it."""
    # safetensors takes no tensors in channels-last order
    state = {key: value.contiguous() for key, value in module.state_dict().items()}
    data = safetensors.torch.save(state)
    weights = f"{name}.safetensors"
    description = {
        "format": FORMAT,
        "ssgear": ssgear.__version__,
        **fields,
        "weights": {"file": weights, "blake2b": digest_of(data)},
    }
    directory.mkdir(parents=True, exist_ok=True)
    text = json_text(description).encode()
    write_files({directory / weights: data, directory / f"{name}.json": text})


def locate(run_dir_or_file: str | Path, name: str) -> tuple[Path, Path]:
    """Return where the weights and their description are, by a run's directory or either file."""
    path = Path(run_dir_or_file).expanduser()
    if not path.exists() and not path.with_suffix(".safetensors").exists():
        raise CheckpointError(
            f"{path}: there is no such run or file; name a run's directory or its "
            f"{name}.safetensors"
        )
    if path.is_dir():
        return path / f"{name}.safetensors", path / f"{name}.json"
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def read_weights(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a safetensors file and the digest of its bytes."""

    def unreadable(error: OSError) -> CheckpointError:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        return CheckpointError(
            f"{path}: {reason}; expected {name}.safetensors of a finished run, or the run's "
            "directory"
        )

    def damaged(error: SafetensorError) -> CheckpointError:
        return CheckpointError(f"{path}: truncated or not a safetensors file ({error})")

    with refusing(OSError, unreadable), refusing(SafetensorError, damaged):
        data = path.read_bytes()
        return safetensors.torch.load(data), digest_of(data)


def read_plain(path: Path, *, option: str, wanted: str) -> tuple[dict[str, Tensor], bytes]:
    """Return the tensors of somebody else's file of weights, and its bytes; no code in it is run.

    Args:
        path: safetensors by its name, else a pickle of tensors.
        option: Who asked, for errors.
        wanted: What would be right, for errors.

    Raises:
        CheckpointError: the file cannot be read, or holds more than tensors by name.
    """

    def refusal(what: str) -> CheckpointError:
        return CheckpointError(f"{option}: {path}: {what}; {wanted}")

    with refusing(OSError, lambda error: refusal(error.strerror or str(error))):
        data = path.expanduser().read_bytes()
    # what the unpickler meets in a foreign file is anything
    with refusing(Exception, lambda _: refusal("is no file of plain weights")):
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data), data
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):  # training scripts keep theirs beside epoch and optimiser
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    plain = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not plain:
        raise refusal("holds more than weights")
    return dict(state), data


def read_description(path: Path) -> dict[str, Any]:
    """Return the fields of a description, whose format is one that this version reads."""

    def unreadable(error: Exception) -> CheckpointError:
        if isinstance(error, FileNotFoundError):
            return CheckpointError(f"{path}: there is no such file; it belongs to the weights")
        return CheckpointError(f"{path}: cannot be read as JSON: {error}")

    with refusing((OSError, ValueError), unreadable):
        fields = json.loads(path.read_text("utf-8"))
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise CheckpointError(
            f"{path}: format {found!r} is not one that ssgear {ssgear.__version__} reads "
            f"(it reads format {FORMAT})"
        )
    return fields


def refusing_settings(description: Path) -> AbstractContextManager[None]:
    """Name the description where a setting in it is missing, or one that nothing can be built of.

    `ConfigError` and `ArgumentError` say themselves what is wrong.
    """

    def refusal(error: Exception) -> CheckpointError:
        lacking = "" if isinstance(error, SsgearError) else "a setting is missing or wrong: "
        return CheckpointError(f"{description}: {lacking}{error}")

    return refusing((KeyError, TypeError, ValueError, ConfigError), refusal)


def check_digest(digest: str, expected: object, description: Path, weights: Path) -> None:
    """Refuse weights that are not those that the description was written for."""
    if digest != expected:
        raise CheckpointError(
            f"{description}: describes other weights than those in {weights}; "
            "copy both files from one run"
        )


def misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """Say how names or shapes of weights differ from those of a module, or return None."""
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not part of it" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}" if problems else None


def digest_of(data: bytes) -> str:
    """Return the digest of a file's bytes that descriptions hold."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
