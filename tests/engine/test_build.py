"""What is settled before the first step: resuming with ds.json, what decays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ssgear.config import cli
from ssgear.engine.build import prepare
from ssgear.engine.trainer import Trainer
from ssgear.errors import CheckpointError
from tests.engine.training import SMALL, ds_json, losses, train
from tests.ranks import Ranks


@pytest.fixture(scope="module")
def single() -> Iterator[Ranks]:
    """One rank in a process of its own: DeepSpeed keeps global state."""
    ranks = Ranks(1)
    yield ranks
    ranks.close()


def resume(*options: str) -> str:
    """Resume, and return the complaint if there is one."""
    try:
        Trainer(prepare(cli.parse(options)), ()).run()
    except CheckpointError as error:
        return str(error)
    return ""


def test_the_same_command_resumes_and_a_changed_ds_json_does_not(
    single: Ranks, tmp_path: Path
) -> None:
    file, run = ds_json(tmp_path, 0), tmp_path / "run"
    options = ("--deepspeed", str(file), "--optim.max-steps")
    single.run(train, run, *options, "2")
    again = [*SMALL, *options, "4", "--resume", str(run)]
    assert single.run(resume, *again) == [""]
    assert len(losses(run)) == 4
    ds_json(tmp_path, 0, gradient_clipping=0.5)
    (complaint,) = single.run(resume, *again)
    assert "optim.clip (0.0, now 0.5)" in complaint


def test_a_vit_keeps_its_position_embedding_out_of_the_decay(tmp_path: Path) -> None:
    vit = ("--model.name", "vit_tiny_patch16_224", "--data.size", "32")
    run = prepare(cli.parse([*SMALL, *vit, "--output", str(tmp_path / "run")]))
    decays = {
        id(weight): group["weight_decay"]
        for group in run.runtime.optimizer("encoder").param_groups
        for weight in group["params"]
    }
    network = run.method.encoder.network
    assert decays[id(network.pos_embed)] == decays[id(network.cls_token)] == 0
    assert decays[id(network.patch_embed.proj.weight)] > 0
