"""Tiny ImageNet in its own layout, but small."""

from __future__ import annotations

from pathlib import Path

from tests.data.pictures import write

WNIDS = {"n01443537": "goldfish, Carassius auratus", "n02012849": "crane", "n03126707": "crane"}


def write_tiny(root: Path, val: dict[str, str]) -> Path:
    """Write the layout of Tiny ImageNet with three classes and these validation images."""
    for wnid in WNIDS:
        write(root, [f"train/{wnid}/images/{wnid}_{i}.JPEG" for i in range(3)])
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 1 1")
    write(root, [f"val/images/{name}" for name in val])
    lines = [f"{name}\t{wnid}\t0\t0\t1\t1\n" for name, wnid in val.items()]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    words = ["n00000000\tentity", *(f"{wnid}\t{words}" for wnid, words in WNIDS.items())]
    (root / "words.txt").write_text("\n".join(words))
    return root


VAL = {"val_0.JPEG": "n03126707", "val_1.JPEG": "n01443537", "val_2.JPEG": "n01443537"}
