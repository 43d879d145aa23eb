"""Weights for Inception-v3 in the published file's names: Kaiming-initialised, saved by the test.

PyTorch's own initialisation gives features that hardly depend on the image.
"""

from __future__ import annotations

import io
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn


def write_weights(path: Path) -> Path:
    """Save a state dict; the test is skipped where torch-fidelity is not installed."""
    pytest.importorskip("torchmetrics")
    network = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with mock.patch.object(nn.Module, "load_state_dict"):  # it loads a file, whatever it is asked
        inception = network.FeatureExtractorInceptionV3("any", ["2048"], empty)
    generator = torch.Generator().manual_seed(0)
    for layer in inception.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
    torch.save(inception.state_dict(), path)
    return path
