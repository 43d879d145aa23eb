"""A reading on rank 0 that lasts longer than the other ranks' collectives would wait."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from ssgear.engine.callbacks import Callback
from ssgear.engine.run import Run
from tests.engine.training import ds_json, train
from tests.ranks import Ranks

TIMEOUT_S = 3.0


def limit(seconds: float) -> None:
    """Set how long a collective waits."""
    # set_timeout is its public name in newer versions
    change = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    change(datetime.timedelta(seconds=seconds), dist.group.WORLD)


class Slow(Callback):
    """Reads for one and a half timeouts, and then again for a moment."""

    def on_step(self, run: Run) -> None:
        """Look at the weights on rank 0 only."""
        if run.step != 1:
            return
        limit(TIMEOUT_S)
        for seconds in (1.5 * TIMEOUT_S, 0.0):
            with run.export_weights():  # under ZeRO-3 a collective of its own
                if run.world.is_main:
                    time.sleep(seconds)
        assert run.world.max_number(3) == 3
        limit(600)


def slowly(output: Path, *options: str) -> list[float]:
    return train(output, "--optim.max-steps", "2", *options, callbacks=(Slow(),))


@pytest.mark.parametrize("stage", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_a_long_reading_ends_no_rank(stage: int | None, pair: Ranks, tmp_path: Path) -> None:
    given = () if stage is None else ("--deepspeed", str(ds_json(tmp_path, stage)))
    columns = pair.run(slowly, tmp_path / "run", *given, timeout=300)
    assert len(columns[0]) == 2 and columns[0] == columns[1]
