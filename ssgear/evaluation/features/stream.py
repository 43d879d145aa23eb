"""Features of many images: decoded, encoded and written to a file, a batch at a time.

    write_features(encoder, images, Path("features.npy"), device=device)

While the encoder works on a batch, a thread decodes the next one. Under torchrun every rank encodes
a part of the images and all write into one file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from ssgear.data.sources.progress import progress
from ssgear.distributed import World
from ssgear.errors import (
    OUT_OF_SPACE,
    ArgumentError,
    DataError,
    StorageError,
    reason_of,
    refusing_full_disk,
    undoing,
)
from ssgear.evaluation.features.rows import Rows
from ssgear.models.modes import evaluating
from ssgear.storage.atomic import PREFIX

BATCH = 256
"""Images of a batch."""
NAMED = 5
"""Images that an error lists."""
_ALONE = World()


def batches(images: Rows, batch_size: int, part: range | None = None) -> Iterator[Tensor]:
    """Yield images in order, uint8 [n, 3, H, W], the next batch being decoded meanwhile.

    `part` are the rows to take, by default all.
    """
    part = range(len(images)) if part is None else part
    cuts = [
        slice(start, min(start + batch_size, part.stop))
        for start in range(part.start, part.stop, batch_size)
    ]
    if isinstance(images, Tensor):
        yield from (images[cut] for cut in cuts)
    else:
        yield from ahead(images, cuts)


def ahead(images: Rows, places: Sequence[slice | Tensor]) -> Iterator[Tensor]:
    """Yield images at places; a thread reads the next while one is used."""
    if not places:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ssgear-ahead") as pool:
        pending = pool.submit(images.__getitem__, places[0])
        for following in places[1:]:
            batch = pending.result()
            pending = pool.submit(images.__getitem__, following)
            yield batch
        yield pending.result()


@torch.no_grad()
def write_features(
    encoder: nn.Module,
    images: Rows,
    path: Path,
    *,
    device: torch.device,
    batch_size: int = BATCH,
    world: World = _ALONE,
    label: str = "",
) -> None:
    """Write features [N, F] float32 as a `.npy` file, which appears when it is complete.

    All ranks call it and leave it together.

    Args:
        encoder: Uint8 [n, 3, H, W] to features [n, F]; it runs in evaluation mode.
        images: Uint8 [N, 3, H, W], N at least 1.
        path: The file.
        device: Where the encoder is.
        batch_size: Images of a batch.
        world: The ranks that share the work.
        label: What a progress bar says; none is shown without it.

    Raises:
        DataError: a feature is NaN or infinite.
        StorageError: the disk is full.
    """
    if not len(images):
        raise ArgumentError("write_features: no images")
    staged = path.with_name(f"{PREFIX}{path.name}")
    with world.unhurried("features"), evaluating(encoder):
        width = int(encoder(images[:1].to(device)).shape[1])
        with undoing(lambda: staged.unlink(missing_ok=True)), refusing_full_disk(_full(path)):
            offset = _create(staged, (len(images), width), writes=world.is_main)
            with world.unhurried("features"):
                pass  # the file is there for every rank
            with open(staged, "r+b") as file, progress(label, len(images)) as advance:
                part = share_of(len(images), world)
                file.seek(offset + 4 * width * part.start)
                start = part.start
                for batch in batches(images, batch_size, part):
                    features = encoder(batch.to(device)).float().cpu().contiguous()
                    check_batch(features, images, start)
                    start += len(batch)
                    file.write(memoryview(features.numpy()).cast("B"))
                    advance(len(batch) * world.size)
                file.flush()
                os.fsync(file.fileno())
    if world.is_main:
        os.replace(staged, path)
    with world.unhurried("features"):
        pass  # no rank reads it before it has its name


def check_batch(features: Tensor, images: Rows, start: int) -> None:
    """Refuse features [n, F] of the images from row `start` on that are NaN or infinite."""
    if bool(features.sum().isfinite()):
        return
    bad = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        name_of = getattr(images, "name_of", lambda row: f"row {row}")
        listed = ", ".join(name_of(start + row) for row in bad[:NAMED])
        more = ", ..." if len(bad) > NAMED else ""
        raise DataError(
            f"features: NaN or infinite for {len(bad)} of {len(features)} images ({listed}{more}); "
            "check the encoder's weights and these images"
        )


def share_of(count: int, world: World) -> range:
    """Return the rows of this rank; all ranks together have every row once."""
    return range(count * world.rank // world.size, count * (world.rank + 1) // world.size)


def _create(path: Path, shape: tuple[int, int], *, writes: bool) -> int:
    """Write the header of a `.npy` file and make room; return where the rows begin."""
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    offset = header.tell()
    if writes:
        with open(path, "wb") as file:
            file.write(header.getvalue())
            file.truncate(offset + 4 * shape[0] * shape[1])
            _reserve(file)
    return offset


def _reserve(file: IO[bytes]) -> None:
    """Take the file's room on the disk now, so that a full one is told before the work."""
    try:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        if error.errno in OUT_OF_SPACE:  # other answers: a file system that cannot reserve
            raise


def _full(path: Path) -> Callable[[OSError], StorageError]:
    return lambda error: StorageError(
        f"{path.parent}: cannot store features: {reason_of(error)}; free some space, or use "
        "--cache false to keep them in memory"
    )
