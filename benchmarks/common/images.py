"""Images as files, for what is timed from the disk on."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ssgear.config.schema import DataConfig
from ssgear.data.sources import decode_all, open_source


def write_files(folder: Path, count: int, side: int) -> None:
    """Write embedded images of this side as JPEG files in two class folders."""
    images, _ = decode_all(open_source(DataConfig(), "train"), DataConfig(), progress=False)
    for number in range(count):
        picture = Image.fromarray(images[number % len(images)].permute(1, 2, 0).numpy())
        file = folder / "ab"[number % 2] / f"{number:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        larger = picture.resize((side, side), Image.Resampling.BICUBIC)
        larger.save(file, quality=90)
