from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from ssgear.config.options import options_of
from ssgear.config.schema import Config
from ssgear.errors import ConfigError

REFUSED: list[tuple[str, Any]] = [
    ("data.test_share", -0.1),
    ("data.test_share", 1.0),
    ("data.test_share", math.nan),
    ("data.max_bad_share", 1.1),
    ("data.size", 7),
    ("data.min_scale", 0.0),
    ("data.min_scale", 1.1),
    ("data.min_scale", math.nan),
    ("data.workers", -1),
    ("data.resident_limit_mb", -1),
    ("optim.lr", 0.0),
    ("optim.lr", math.inf),
    ("optim.lr", math.nan),
    ("optim.weight_decay", -1e-9),
    ("optim.momentum", 1.0),
    ("optim.lars_eta", 0.0),
    ("optim.lars_eta", math.nan),
    ("optim.batch_size", 1),
    ("optim.micro_batch", 0),
    ("optim.epochs", 0),
    ("optim.max_steps", 0),
    ("optim.warmup_epochs", -1.0),
    ("optim.clip", -1.0),
    ("optim.clip", math.inf),
    ("optim.ema", 1.0),
    ("engine.threads", 0),
    ("engine.timeout_s", 0.0),
    ("log.every", 0),
    ("checkpoint.every", 0),
    ("checkpoint.keep", 0),
    ("eval.every", -1),
    ("eval.max_images", 1),
    ("eval.final_images", 1),
]
ACCEPTED: list[tuple[str, Any]] = [
    ("data.test_share", 0.0),
    ("data.max_bad_share", 1.0),
    ("data.size", 8),
    ("data.size", None),
    ("data.min_scale", 1.0),
    ("data.workers", 0),
    ("optim.batch_size", 2),
    ("optim.micro_batch", 1),
    ("optim.weight_decay", 0.0),
    ("optim.momentum", 0.0),
    ("optim.warmup_epochs", 0.0),
    ("optim.clip", 0.0),
    ("optim.ema", 0.0),
    ("eval.every", 0),
]


def section_with(key: str, value: Any) -> Any:
    section, _, name = key.partition(".")
    kind = type(getattr(Config(), section))
    return getattr(kind(**{name: value}), name)


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_refuses_what_no_run_can_use_and_names_the_option(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        section_with(key, value)
    option = "--" + key.replace("_", "-")
    assert str(caught.value).startswith(f"{option}: {value} is not possible; ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), ACCEPTED)
def test_accepts_the_edges(key: str, value: Any) -> None:
    assert section_with(key, value) == value


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_refuses_seeds_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"^--seed: "):
        Config(seed=seed)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().optim.lr = 1.0  # type: ignore[misc]


def test_every_option_has_a_line_of_help() -> None:
    for option in options_of(Config).values():
        assert option.about.endswith("."), option
        assert len(option.about) < 100, option
