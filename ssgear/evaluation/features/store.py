"""Features that were computed before: one file for each encoder, set of images and resolution.

    store = FeatureStore(run / "features")
    features = store.features(encoder, images, device=device)       # a FeatureFile, made once

A file is named after a fingerprint of everything that its numbers depend on: the weights, the
images (by name, size and time of change), their size in pixels, and the kind of device. What cannot
be relied on, such as images without files, is computed anew and kept in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ssgear.distributed import World
from ssgear.errors import CheckpointError, StorageError, reason_of, refusing
from ssgear.evaluation.features.rows import FeatureFile, Rows
from ssgear.evaluation.features.stream import BATCH, batches, check_batch, write_features
from ssgear.models.modes import evaluating
from ssgear.storage.lock import claimed

VERSION = "2"
"""Changes when the same inputs come to give other features."""


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Features by what they were computed of."""

    folder: Path | None = None
    """Where files are kept; None: in memory, and computed anew in every process."""
    world: World = field(default_factory=World)
    """The ranks that share the work of a file."""

    def key(self, encoder: nn.Module, images: Rows, device: torch.device) -> str:
        """Return the fingerprint of features; empty where they cannot be kept."""
        state = str(getattr(images, "state", ""))
        if self.folder is None or not state:
            return ""
        return digest_of(VERSION, weights_digest(encoder), state, device.type)

    def features(
        self,
        encoder: nn.Module,
        images: Rows,
        *,
        device: torch.device,
        batch_size: int = BATCH,
        label: str = "Encoding",
    ) -> Rows:
        """Return features [N, F] float32, read from a file where they are known.

        Under torchrun all ranks call it together.

        Raises:
            StorageError: the folder cannot be written.
        """
        key = self.key(encoder, images, device)
        if self.folder is None or not key:
            return self._in_memory(encoder, images, device, batch_size)
        path = self.folder / f"{key}.npy"
        if not self._is_complete(path, len(images)):
            with refusing(OSError, lambda error: _unwritable(path.parent, error)):
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._claimed(path):
                    if not self._is_complete(path, len(images)):
                        write_features(
                            encoder, images, path, device=device, batch_size=batch_size,
                            world=self.world, label=label,
                        )  # fmt: skip
        return FeatureFile(path)

    @contextmanager
    def _claimed(self, path: Path) -> Iterator[None]:
        """Wait while another process computes the same features, and keep others from it."""
        with ExitStack() as stack:
            with self.world.unhurried("features"):
                if self.world.is_main:
                    stack.enter_context(claimed(path.with_suffix(".lock"), wait=True))
            yield

    def _is_complete(self, path: Path, count: int) -> bool:
        """Whether a file of so many rows is there; a damaged one is made again."""
        complete = False
        if self.world.is_main and path.is_file():
            try:
                complete = len(FeatureFile(path)) == count
            except CheckpointError:
                path.unlink(missing_ok=True)
        return self.world.max_flag(complete)

    @torch.no_grad()
    def _in_memory(
        self, encoder: nn.Module, images: Rows, device: torch.device, batch_size: int
    ) -> Tensor:
        with evaluating(encoder):
            parts: list[Tensor] = []
            for batch in batches(images, batch_size):
                parts.append(encoder(batch.to(device)).float().cpu())
                check_batch(parts[-1], images, (len(parts) - 1) * batch_size)
        return torch.cat(parts)


def weights_digest(network: nn.Module) -> str:
    """Return a digest of a network's tensors, and of the modules that compute with them.

    Of a module count its type and its attributes that are numbers, texts or functions, such as the
    number of heads, the way to pool, an activation. Buffers that are not saved count too: mean and
    deviation of the images are among them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for module in network.modules():
        digest.update(type(module).__qualname__.encode())
        digest.update(module.extra_repr().encode())
        digest.update(repr(_settings(module)).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings(module: nn.Module) -> dict[str, object]:
    """Return attributes that what a module computes may depend on, by name."""
    settings: dict[str, object] = {}
    for name, value in sorted(vars(module).items()):
        is_derived = isinstance(getattr(type(module), name, None), cached_property)
        if name.startswith("_") or name == "training" or is_derived:
            continue
        parts = value if isinstance(value, tuple | list) else (value,)
        if all(isinstance(part, bool | int | float | str | None) for part in parts):
            settings[name] = value
        elif callable(value):
            settings[name] = getattr(value, "__qualname__", type(value).__qualname__)
    return settings


def digest_of(*parts: str) -> str:
    """Return a short digest of texts, for the name of a file."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: cannot store features: {reason_of(error)}; use --cache false to keep them in "
        "memory"
    )
