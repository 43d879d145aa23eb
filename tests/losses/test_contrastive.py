"""The module form is the function with its settings kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssgear.errors import ArgumentError
from ssgear.losses import NTXentLoss, nt_xent


def views(count: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(count, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()


def test_settings_reach_the_function() -> None:
    z1, z2, z3 = views(3)
    ids = torch.arange(5).repeat(3)
    loss = NTXentLoss(0.3, normalize=False, impl="reference")
    for given, wanted in (
        (loss(z1, z2), nt_xent(z1, z2, temperature=0.3, normalize=False)),
        (loss(torch.cat((z1, z2))), nt_xent(z1, z2, temperature=0.3, normalize=False)),
        (
            loss(z1, z2, z3, ids=ids),
            nt_xent(z1, z2, z3, temperature=0.3, normalize=False, ids=ids),
        ),
    ):
        torch.testing.assert_close(given, wanted)
    assert str(loss) == "NTXentLoss(temperature=0.3, normalize=False, impl='reference')"


def test_a_parameter_as_temperature_is_trained() -> None:
    loss = NTXentLoss(nn.Parameter(torch.tensor(0.5)))
    assert [name for name, _ in loss.named_parameters()] == ["temperature"]
    before = loss(*views())
    before.backward()
    (parameter,) = loss.parameters()
    torch.optim.SGD(loss.parameters(), lr=0.01).step()
    assert parameter.item() != 0.5
    assert loss(*views()) < before
    assert str(loss).startswith(f"NTXentLoss(temperature={parameter.item():g}")


def test_a_parameter_without_a_value_can_be_printed() -> None:
    loss = NTXentLoss(nn.Parameter(torch.tensor(0.5))).to("meta")
    assert str(loss) == "NTXentLoss(temperature=nan, normalize=True, impl='auto')"


def test_bad_settings_are_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match="temperature=0"):
        NTXentLoss(0)
    with pytest.raises(ArgumentError, match="normalize=1; use True or False"):
        NTXentLoss(normalize=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="did you mean reference"):
        NTXentLoss(impl="referense")  # type: ignore[arg-type]
