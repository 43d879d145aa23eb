"""What an outcome is known by: nothing that it depends on may be missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssgear.evaluation import subject as room
from ssgear.evaluation.generated.inception import Inception
from ssgear.evaluation.images import EvalData
from ssgear.evaluation.subject import Options, Subject


class Images:
    """Images of which only the state matters."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.shape = (4, 3, 8, 8)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        raise AssertionError("were read")


def data(test: str = "test", labels: tuple[int, ...] = (0, 1, 0, 1)) -> EvalData:
    return EvalData(
        train_images=Images("train"),
        train_labels=torch.tensor(labels),
        test_images=Images(test),
        test_labels=torch.tensor((0, 1, 0, 1)),
    )


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_whatever_an_outcome_depends_on_changes_its_fingerprint() -> None:
    usual = Subject(linear(), data())
    others = [
        Subject(linear(1), data()),
        Subject(linear(), data(test="other")),
        Subject(linear(), data(labels=(0, 1, 1, 1))),
        Subject(linear(), data(), options=Options(labels=(0.1, 1.0))),
        Subject(linear(), data(), options=Options(seeds=2)),
        Subject(linear(), data(), against=Subject(linear(1), data())),
    ]
    prints = [subject.fingerprint("linear") for subject in (usual, *others)]
    prints.append(usual.fingerprint("knn"))
    assert all(prints) and len(set(prints)) == len(prints)
    assert Subject(linear(), data()).fingerprint("linear") == prints[0]


def test_what_cannot_be_relied_on_has_none(tmp_path: Path) -> None:
    for subject in (
        Subject(linear(), data(test="")),
        Subject(linear(), data(), options=Options(labels=(0.1,), label_lists=tmp_path)),
        Subject(linear(), data(), others={"other": data}),
        Subject(linear(), data(), load_trained=lambda size: (Images("x"), None)),
    ):
        assert subject.fingerprint("linear") == ""


def test_a_generator_is_part_of_what_its_figures_are_known_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @dataclasses.dataclass
    class Saved:
        generator: nn.Module

    def of(seed: int, digest: str = "a") -> tuple[str, str]:
        def read(folder: Path) -> Any:
            return Saved(linear(seed))

        monkeypatch.setattr(room, "read_generator", read)
        inception = Inception(network=nn.Identity(), digest=digest)
        subject = Subject(linear(), data(), run=tmp_path, inception=inception)
        return subject.fingerprint("fid"), subject.fingerprint("linear")

    fid, probe = of(1)
    assert of(1) == (fid, probe)
    assert of(2)[0] != fid and of(2)[1] == probe
    assert of(1, "b")[0] != fid
