from __future__ import annotations

import pytest

from ssgear.errors import ConfigError
from ssgear.evaluation.protocols import find
from ssgear.evaluation.protocols.registry import names


def test_protocols_are_found_by_name() -> None:
    assert {"linear", "knn", "map", "cka", "transfer", "fid", "attention"} <= set(names())
    for name in names():
        assert find(name).name == name and find(name).measure.__doc__


def test_an_unknown_protocol_is_told_with_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol 'lineer' \(did you mean linear\?\)"):
        find("lineer")
    assert find("shifts").name == "shifts"  # of a method
