"""Which files are JPEGs that every decoder reads alike, from their headers alone.

NVIDIA's decoders take these as they are. Everything else (four colours, lossless or 12-bit coding,
colours without a transform, a camera's notes that are damaged or name an orientation in XMP, a file
without an end mark, and other formats) is decoded by `data/sources/decode.py`, so that every engine
sees the same pixels.
"""

from __future__ import annotations

from typing import Literal

_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Frames of baseline, extended and progressive coding by Huffman."""
_REFUSED = (*range(0xC3, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Other codings."""
_APP1, _APP14, _SCAN = 0xE1, 0xEE, 0xDA
_EXIF = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)
"""Size of a value of each type of TIFF 6.0; there is no type 0."""


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Return the upright height and width of such a file, None for any other."""
    if not (data.startswith(_START) and data.endswith(_END)):
        return None
    place, transform, orientation = 2, 1, 0
    size: tuple[int, int] | None = None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker == _SCAN:
            return size[::-1] if size and orientation >= 5 else size
        # notes that come after the frame are not read alike
        late = size is not None and marker in (*_FRAMES, _APP1, _APP14)
        if marker in _REFUSED or length < 2 or late:
            return None
        if marker in _FRAMES:
            size = _size(segment) if transform else None
            if size is None:
                return None
        if marker == _APP14 and segment.startswith(b"Adobe") and len(segment) > 11:
            transform = segment[11]
        if marker == _APP1 and segment.startswith(_EXIF):
            again, orientation = orientation > 0, _orientation(segment[6:])
            if again or not orientation:
                return None
        elif marker == _APP1 and b"Orientation" in segment:
            return None
        place += 2 + length
    return None


def _size(frame: bytes) -> tuple[int, int] | None:
    """Return height and width of a frame of 8-bit grey or luminance and chrominance."""
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    names = frame[6 : 6 + 3 * frame[5] : 3]
    plain = frame[0] == 8 and frame[5] in (1, 3) and names != b"RGB" and height and width
    return (height, width) if plain else None


def _orientation(tiff: bytes) -> int:
    """Return the orientation, 1 where none is named, of a camera's notes.

    0 where their first directory is not whole, or names several.
    """
    order: Literal["big", "little"] = "big" if tiff[:2] == b"MM" else "little"
    if tiff[:2] not in (b"MM", b"II") or len(tiff) < 10:
        return 0

    def number(start: int, size: int = 2) -> int:
        return int.from_bytes(tiff[start : start + size], order)

    first = number(4, 4)
    entries = [first + 2 + 12 * entry for entry in range(number(first))]
    if number(2) != 42 or first < 8 or first + 6 + 12 * len(entries) > len(tiff):
        return 0
    for entry in entries:
        kind = number(entry + 2)
        size = number(entry + 4, 4) * (_BYTES[kind] if kind < len(_BYTES) else 0)
        if not size or (size > 4 and number(entry + 8, 4) + size > len(tiff)):
            return 0
    said = [entry for entry in entries if number(entry) == _ORIENTATION]
    kinds = [(number(entry + 2), number(entry + 4, 4)) for entry in said]
    if not said:
        return 1
    named = number(said[0] + 8) if kinds == [(_SHORT, 1)] else 0
    return named if 1 <= named <= 8 else 0
