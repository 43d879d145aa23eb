from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ssgear.errors import CheckpointError
from ssgear.evaluation.results import (
    LABELS,
    Measure,
    per_image_path,
    read_per_image,
    write_figures,
)

CORRECT = torch.tensor([1, 0, 1, 1], dtype=torch.uint8)


def test_figures_are_numbers_with_what_they_rest_on(tmp_path: Path) -> None:
    measures = {
        "knn": Measure(
            value=0.75, interval=(0.3, 0.95), num_train=9, num_test=4, per_image=CORRECT
        ),
        "mlp": Measure(value=0.5, values=(0.25, 0.75), deviation=0.35, num_test=4),
        "effective_rank": Measure(value=3.5),
    }
    path = tmp_path / "summary.json"
    write_figures(path, measures, {"source": "mini"}, test_images="abc")
    assert json.loads(path.read_text()) == {
        "knn": 0.75,
        "mlp": 0.5,
        "effective_rank": 3.5,
        "details": {
            "knn": {"interval": [0.3, 0.95], "num_train": 9, "num_test": 4},
            "mlp": {"num_test": 4, "values": [0.25, 0.75], "deviation": 0.35},
        },
        "source": "mini",
        "test_images": "abc",
    }
    images, values = read_per_image(path)
    assert images == "abc" and torch.equal(values["knn"], CORRECT) and len(values) == 1
    labels = torch.tensor([2, 0, 2, 1])
    write_figures(path, measures, {}, test_images="abc", test_labels=labels)
    _, values = read_per_image(path)
    assert torch.equal(values[LABELS], labels) and torch.equal(values["knn"], CORRECT)
    # figures without values by image leave none of an earlier evaluation behind
    write_figures(
        path, {"effective_rank": Measure(value=3.5)}, {}, test_images="abc", test_labels=labels
    )
    assert read_per_image(path) == ("", {})


def test_damaged_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    per_image_path(path).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"summary\.safetensors: damaged"):
        read_per_image(path)
