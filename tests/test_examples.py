"""The examples run as they stand, and train."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ssgear.config.schema import DataConfig
from ssgear.data.sources import open_source
from ssgear.data.sources.loading import decode_all

ROOT = Path(__file__).parents[1]


def test_the_loss_alone(tmp_path: Path) -> None:
    from PIL import Image

    images, _ = decode_all(open_source(DataConfig(), "test"), DataConfig())
    (tmp_path / "some").mkdir()
    for number, image in enumerate(images[:192]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "some" / f"{number}.png")
    example = ROOT / "examples" / "use_the_loss_alone.py"
    done = subprocess.run(
        [sys.executable, example, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    losses = [float(each) for each in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 2 and losses[1] < losses[0] < 5.0


def test_the_loss_alone_asks_for_its_folder() -> None:
    example = ROOT / "examples" / "use_the_loss_alone.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("usage:"), done.stderr
