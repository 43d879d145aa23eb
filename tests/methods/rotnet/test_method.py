"""RotNet: turns and labels against torch.rot90, the loss by hand, its backbone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.base import Facts
from ssgear.methods.rotnet.method import RotNet
from ssgear.models.encoders import build_encoder


def method() -> RotNet:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm="group"), 32)
    config = RotNet.Config()
    facts = Facts(augmentation=view_set("none"), num_images=9, pretext=RotNet.build_pretext(config))
    return RotNet.build(config, encoder, facts)


def batch_of(views: list[Tensor]) -> Batch:
    rows = torch.arange(len(views[0]))
    return Batch(views=views, index=rows, position=rows)


def test_all_four_turns_are_seen_counterclockwise() -> None:
    view = torch.randn(3, 3, 32, 32).to(memory_format=torch.channels_last)
    seen = method().pretext.seen(batch_of([view]))
    assert len(seen) == 4
    for turn, each in enumerate(seen):
        assert torch.equal(each, torch.rot90(view, turn, (2, 3)))
    assert torch.equal(seen[1][0, :, 0, 0], view[0, :, 0, -1])  # the right end comes to the top


def test_the_loss_is_the_cross_entropy_of_the_true_turns() -> None:
    made = method()
    batch = batch_of([torch.randn(3, 3, 32, 32)])
    zs = made.embed(made.phases[0], batch)
    terms = made.loss_of(made.phases[0], zs, batch)
    total, right = 0.0, 0
    for turn in range(4):
        for row in range(3):
            image = torch.rot90(batch.views[0][row : row + 1], turn, (2, 3))
            scores = made.classifier(made.encoder(image)).double()[0].tolist()
            total += math.log(sum(math.exp(s) for s in scores)) - scores[turn]
            right += scores[turn] == max(scores)
    assert float(terms.total.detach()) == pytest.approx(total / 12, abs=1e-5)
    assert float(terms.parts["rotation_accuracy"]) == pytest.approx(right / 12)


def test_health_is_of_features_of_the_views() -> None:
    made = method()
    views = [torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)]
    compared = made.health_embeddings(made.phases[0], batch_of(views))
    assert [each.shape for each in compared] == [(2, 256), (2, 256)]
    assert torch.equal(compared[1], made.encoder(views[1]))


def test_a_set_of_two_views_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--data\.augmentation: .* 2 views and the method takes 1"
    ):
        method().view_specs(view_set("byol"))


def test_the_report_has_a_probe_per_block(run_ssgear: Callable[..., Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = (
        "--optim.max-steps",
        "2",
        "--eval.max-images",
        "200",
        "--eval.final-images",
        "200",
        "--engine.threads",
        "1",
    )
    done = run_ssgear("train", "--preset", "rotnet-quick", "--output", run, *small)
    assert done.status == 0, done.err
    summary = json.loads((run / "summary.json").read_text())
    names = [f"linear_probe_at_{name}" for name in ("act1", "layer1", "layer2", "layer3", "layer4")]
    for name in names:
        assert 0 < summary[name] < 1
        assert 0 < summary["baselines"]["untrained"][name] < 1
        assert name not in summary["baselines"]["pixels"]
    page = (run / "report.html").read_text()
    assert "Linear probe after layer3" in page
    assert "by how many quarter turns" in page
    # the same block from outside
    words = ("--protocol", "linear", "--features", "layer3", "--max-images", "200")
    done = run_ssgear("evaluate", run, *words, "--device", "cpu")
    assert done.status == 0, done.err
    figures = json.loads(Path(done.out.split()[-1]).read_text())
    assert figures["linear_probe"] == summary["linear_probe_at_layer3"]
    for words, complaint in (
        (("--features", "layer5"), "--features: resnet_tiny has no block 'layer5'"),
        (("--features", "layer1", "--protocol", "blocks"), "--features: --protocol blocks reads"),
    ):
        refused = run_ssgear("evaluate", run, *words)
        assert refused.status == 2
        assert complaint in refused.complaint
