"""Methods that train the encoder of GAN + SSL, with a synthetic view of each row or rows of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.data.view_stores import folder
from tests.methods.contract import arguments, train

INNER = {
    "barlow-twins": "projector_dims=16,8",
    "swav": "projector_dims=16,8 prototypes=9 queue_length=32 queue_from_epoch=0",
    "supcon": "projector_dims=16,8",
}


@pytest.mark.parametrize(
    ("name", "condition"),
    [("barlow-twins", "label"), ("swav", "label"), ("swav", "none"), ("supcon", "label")],
)
def test_it_trains_on_real_and_synthetic_views(name: str, condition: str, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 40)
    given = ["--method.ssl", name, "--method.condition", condition, "--optim.max-steps", "3"]
    given += ["--method.ssl-options", *INNER[name].split()]
    column = train([*arguments("gan-ssl", tmp_path / "run", images), *given])
    assert len(column) == 3 and all(math.isfinite(loss) for loss in column)
