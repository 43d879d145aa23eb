"""Reading all images of a source, in parallel, with a progress bar on a terminal.

`decode_all` decodes a small-image set once for the resident loader; `scan` finds sizes and bad
files of a set that stays on disk; `load_images` makes equal squares for evaluation. Threads do it:
Pillow lets go of the interpreter while it decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from torch import Tensor

from ssgear.config.schema import DataConfig
from ssgear.data.sources.checked import checked
from ssgear.data.sources.decode import BadImageError
from ssgear.data.sources.progress import progress
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import BadFile, Source
from ssgear.data.sources.square import centre_squares
from ssgear.errors import DataError

GREY = 128
"""Value of the pixels of an image that is lost, where none can stand in for it."""
_CHUNK = 64
"""Images of one task of a thread."""
_SHOWN = 3
"""Bad files that an error names."""

Bad = list[tuple[int, str]]
"""Numbers of images that cannot be read, and why."""


def decode_all(
    source: Source, config: DataConfig, *, progress: bool = True
) -> tuple[Tensor, Source]:
    """Decode every image of a set whose images are squares of one side.

    Returns:
        uint8 [N, 3, S, S] of the images that can be read, and the source of just these.

    Raises:
        DataError: the sizes differ, or more than `--data.max-bad-share` cannot be read.
    """
    side = source.native_size
    if side is None:
        raise DataError(
            f"{source.where(0)} and others: the images are not squares of one size, as one array "
            "needs; use --data.loader torch"
        )
    if isinstance(source.reader, ArrayReader):
        return source.reader.stack(source.index), source
    pixels = np.empty((len(source), 3, side, side), dtype=np.uint8)

    def read(index: int) -> None:
        image = source.image(index)
        if image.size != (side, side):
            raise BadImageError(f"{image.width} x {image.height} pixels, not {side} x {side}")
        pixels[index] = np.asarray(image).transpose(2, 0, 1)

    bad = _for_each(read, len(source), config.workers, "Decoding" if progress else "")
    good = _without_bad(source, bad, config)
    images = torch.from_numpy(pixels)
    if bad:
        keep = torch.ones(len(images), dtype=torch.bool)
        keep[[index for index, _ in bad]] = False
        images = images[keep]
    return images, good


def scan(
    source: Source, config: DataConfig, *, progress: bool = True, lost: Iterable[BadFile] = ()
) -> tuple[Source, Tensor]:
    """Find the sizes of all images and the files that cannot be read.

    Every image is read once; of many images, those that were found good before and have not
    changed since are not read again (data/sources/checked.py). `lost` are files that a resumed run
    knows to be lost: they keep their numbers (data/order/missing.py) and count as a pixel.

    Returns:
        The source of the images that can be read, and their upright heights and widths [N, 2].

    Raises:
        DataError: more than `--data.max-bad-share` cannot be read.
    """
    gone = {file.name for file in lost}
    sizes = np.zeros((len(source), 2), dtype=np.int64)
    missing = np.arange(len(source))
    label = "Checking" if progress and not isinstance(source.reader, ArrayReader) else ""
    with checked(source.reader, source.index.numpy(), remember=config.cache) as known:
        if known is not None:
            sizes, missing = known.sizes, known.missing

        def read(place: int) -> None:
            index = int(missing[place])
            if not gone or source.full_name(index) not in gone:
                sizes[index] = source.checked_size(index)

        found = _for_each(read, len(missing), config.workers, label)
    bad = [(int(missing[place]), reason) for place, reason in found]
    source = source.subset(torch.arange(len(source)))
    source.sizes = torch.from_numpy(sizes).clamp(min=1)
    good = _without_bad(source, bad, config)
    assert good.sizes is not None
    return good, good.sizes


def load_images(
    source: Source,
    indices: Tensor,
    size: int,
    *,
    workers: int = 0,
    missing: int | None = None,
    bad: Bad | None = None,
) -> Tensor:
    """Return some images as uint8 [n, 3, size, size]: the squares of `square.py`.

    Where `missing` is given, an image that cannot be read has all pixels of that value, and its row
    and the reason are added to `bad`.

    Raises:
        DataError: one of them cannot be read.
    """
    pixels = np.empty((len(indices), 3, size, size), dtype=np.uint8)
    rows = indices.tolist()

    def read(row: int) -> None:
        image = torch.from_numpy(np.array(source.image(rows[row]))).permute(2, 0, 1)
        pixels[row] = centre_squares(image[None], size)[0].numpy()

    for row, reason in sorted(_for_each(read, len(rows), workers, "")):
        if missing is None:
            raise source.named(BadImageError(reason), rows[row])
        pixels[row] = missing
        if bad is not None:
            bad.append((row, reason))
    return torch.from_numpy(pixels)


def load_readable(
    source: Source, indices: Tensor, size: int, *, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Return those of some images that can be read, as `load_images` does, and their indices."""
    bad: Bad = []
    images = load_images(source, indices, size, workers=workers, missing=GREY, bad=bad)
    if not bad:
        return images, indices
    good = torch.ones(len(indices), dtype=torch.bool)
    good[[row for row, _ in bad]] = False
    return images[good], indices[good]


def _for_each(read: Callable[[int], None], count: int, workers: int, label: str) -> Bad:
    """Call `read` for 0 to count - 1 and collect what is bad; a label asks for a progress bar."""

    def some(rows: Sequence[int]) -> Bad:
        bad = []
        for row in rows:
            try:
                read(row)
            except BadImageError as error:
                bad.append((row, str(error)))
        return bad

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with progress(label, count) as advance:
        bad: Bad = []
        for done, found in _parallel(some, chunks, workers):
            bad += found
            advance(done)
    return bad


def _parallel(
    some: Callable[[Sequence[int]], Bad], chunks: Sequence[range], workers: int
) -> Iterator[tuple[int, Bad]]:
    """Yield the length and the result of each chunk as it is done."""
    if workers <= 1 or len(chunks) <= 1:
        yield from ((len(chunk), some(chunk)) for chunk in chunks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ssgear-decode")
    try:
        tasks = {pool.submit(some, chunk): len(chunk) for chunk in chunks}
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    finally:
        # Ctrl-C: what has not begun is not waited for
        pool.shutdown(cancel_futures=True)


def _without_bad(source: Source, bad: Bad, config: DataConfig) -> Source:
    """Return the source without its bad files; refuse too many."""
    good = source.without(bad)
    total = len(good) + len(good.bad)
    share = len(good.bad) / max(1, total)
    if bad and (share > config.max_bad_share or not len(good)):
        named = "; ".join(f"{file.where}: {file.reason}" for file in good.bad[:_SHOWN])
        more = f"; and {len(good.bad) - _SHOWN} more" if len(good.bad) > _SHOWN else ""
        allowed = (
            f"--data.max-bad-share allows {100 * config.max_bad_share:g} %"
            if len(good)
            else "no image is left"
        )
        raise DataError(
            f"{len(good.bad)} of {total} files ({100 * share:.3g} %) cannot be read, {allowed}: "
            f"{named}{more}"
        )
    return good
