"""One way to choose a form: the fastest that can, the one that is named, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.forms import (
    Form,
    always_available,
    choose,
    describe_fault,
    first_right,
    type_unavailable_reason,
)

X = torch.ones(2)
Reason = Callable[[Tensor], str]


def forms(cpp: Reason = always_available, right: bool = True) -> tuple[Form[Tensor, str], ...]:
    return (
        Form("triton", always_available, "t"),
        Form("cpp", cpp, "c", lambda _: right),
        Form("streaming", always_available, "s"),
        Form("reference", always_available, "r"),
    )


def chosen(impl: Any, *others: object, **options: Any) -> str:
    possible = options.pop("forms", forms())
    return choose("f", impl, possible, X, (X, *others), **options).run


def test_auto_takes_the_fastest_that_can() -> None:
    assert chosen("auto") == "c", "Triton's interpreter is never the fastest"
    assert chosen("auto", forms=forms(lambda _: "no")) == "s"
    assert chosen("auto", forms=forms(right=False)) == "s", "it was tried, and is wrong"
    assert chosen("triton") == "t"


def test_only_the_reference_follows_torch_func() -> None:
    def inside(x: Tensor) -> Tensor:
        assert chosen("auto", x) == "r" == chosen("reference", x)
        with pytest.raises(ArgumentError, match=r"'cpp' is not.*torch\.func.*; use auto or refer"):
            chosen("cpp", x)
        return x.sum()

    torch.func.grad(inside)(X)


def test_a_compiler_fuses_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert chosen("auto", is_fusible=True) == "r"
    assert chosen("auto") == "c" == chosen("cpp", is_fusible=True)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        chosen("cpp", forms=forms(lambda _: "it is broken"))
    assert str(caught.value) == (
        "f: impl='cpp' is not possible here: it is broken; use auto or triton or streaming or "
        "reference"
    )
    for impl, text in (("cp", "'cp' (did you mean cpp?)"), (X, "tensor([1., 1.])"), ([], "[]")):
        with pytest.raises(ArgumentError) as caught:
            chosen(impl)
        known = "use one of auto, reference, streaming, cpp, triton"
        assert str(caught.value) == f"f: unknown impl={text}; {known}"


def test_types_are_named() -> None:
    assert type_unavailable_reason(X, torch.float32) == ""
    reason = type_unavailable_reason(X.double(), torch.bfloat16, torch.float16, torch.float32)
    assert reason == "it takes bfloat16, float16 and float32, and got float64"


def test_a_fault_is_an_error_or_a_difference() -> None:
    assert describe_fault(lambda: 1e-6, 1e-5) == ""
    assert describe_fault(lambda: 2e-5, 1e-5) == "off by 2e-05 of the reference"
    assert describe_fault(lambda: float("nan"), 1e-5) == "off by nan of the reference"

    def fails() -> float:
        raise RuntimeError("no such operator\nand more")

    assert describe_fault(fails, 1e-5) == "no such operator"


def test_the_first_right_candidate_is_taken() -> None:
    faults = {"a": "sums are off", "b": "", "c": ""}
    here = torch.device("cpu")
    with pytest.warns(UserWarning, match="f: sums are off as compiled; a slower plan is right"):
        assert first_right("f", here, "abc", faults.__getitem__, "slow") == "b"
    with pytest.warns(UserWarning, match="NO TRITON KERNEL IS RIGHT on cpu: sums are off; the sl"):
        assert first_right("f", here, "a", faults.__getitem__, "slow") is None
