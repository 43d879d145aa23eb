"""A contact sheet of a view store: `preview.png`, and `preview.html` with prompts and seeds.

path = write_preview(root)        # sources beside their views; failed ones are marked
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ssgear.data.sources.source import Source
from ssgear.report.contents import Pixels
from ssgear.report.page import render
from ssgear.report.store_rows import SIDE, Row, Seen, look
from ssgear.storage.atomic import Json, write_bytes, write_text

PAGE = "preview.html"
SHEET = "preview.png"
_TILE = 128
"""Side of a picture on the sheet."""
_GAP = 6
"""Pixels between pictures; between sources there are more."""
_RATIO = 1.5
"""Width by height that the sheet comes near to."""
_PAPER, _NOTHING, _CROSS = (255, 255, 255), (226, 229, 234), (185, 37, 47)


def write_preview(root: Path, source: Source | None = None) -> Path:
    """Write both into the store's directory and return the page.

    Raises:
        DataError: there is no store, nothing in it, or `source` is another set than it was made of.
    """
    seen = look(root, source)
    file = io.BytesIO()
    sheet(seen.rows).save(file, "PNG")
    write_bytes(root / SHEET, file.getvalue())
    write_text(root / PAGE, page(seen, root.resolve().name))
    return root / PAGE


def page(seen: Seen, name: str) -> str:
    """Return the page."""
    return render(
        "store.html",
        name=name,
        title=_title(seen),
        facts=[(key, value) for key, value in _facts(seen) if value],
        rows=seen.rows,
        side=SIDE,
        alone=seen.num_views == 1 and all(row.source is None for row in seen.rows),
        failed=seen.failed,
        settings=list(_flat(seen.info.settings)),
    )


def _title(seen: Seen) -> dict[str, str]:
    settings = seen.info.settings
    return {
        "generator": str(settings.get("generator", "an unknown generator")),
        "views": f"{seen.there:,}",
        "images": f"{settings['images']:,}" if isinstance(settings.get("images"), int) else "",
    }


def _facts(seen: Seen) -> Iterator[tuple[str, str]]:
    info, failed = seen.info, sum(seen.failed.values())
    yield "Pixels", f"{info.size} x {info.size}, {info.encoding}"
    yield "Views of each", f"{seen.num_views:,}" if "images" in info.settings else ""
    yield "Planned", f"{info.count:,}"
    yield "Failed", f"{failed:,}" if failed else ""
    yield "Not made yet", f"{seen.missing:,}" if seen.missing else ""
    yield "Upscaled originals", f"{seen.upscaled:,}" if seen.upscaled else ""
    yield "Seed", str(info.settings.get("seed", ""))


def _flat(settings: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(each) for each in value)
        else:
            yield prefix + key, "not set" if value is None else str(value)


def sheet(rows: Sequence[Row]) -> Image.Image:
    """Lay all sources and views out in one picture, row after row, in columns."""
    has_sources = any(row.source is not None for row in rows)
    tiles = has_sources + max(len(row.views) for row in rows)
    width, height = tiles * (_TILE + _GAP) + 2 * _GAP, _TILE + 2 * _GAP
    columns = max(1, min(len(rows), round((_RATIO * len(rows) * height / width) ** 0.5)))
    lines = -(-len(rows) // columns)
    paper = Image.new("RGB", (columns * width + _GAP, lines * height), _PAPER)
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        left, top = column * width + _GAP, line * height + _GAP
        for place, tile in enumerate(_tiles(row, has_sources)):
            paper.paste(tile, (left + place * (_TILE + _GAP), top))
    return paper


def _tiles(row: Row, has_sources: bool) -> Iterator[Image.Image]:
    """Yield the pictures of a row; a view that failed is crossed out."""
    if has_sources:
        yield _tile(row.source)
    for view in row.views:
        tile = _tile(view.pixels)
        if view.state == "failed":
            draw, end = ImageDraw.Draw(tile), _TILE - 20
            draw.line((20, 20, end, end), fill=_CROSS, width=6)
            draw.line((20, end, end, 20), fill=_CROSS, width=6)
        yield tile


def _tile(pixels: Pixels | None) -> Image.Image:
    if pixels is None:
        return Image.new("RGB", (_TILE, _TILE), _NOTHING)
    image = Image.fromarray(pixels)
    how = Image.Resampling.NEAREST if image.width * 2 <= _TILE else Image.Resampling.LANCZOS
    return image.resize((_TILE, _TILE), how)
