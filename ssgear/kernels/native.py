"""The C++ operators of csrc/, found and loaded at their first use.

setup.py builds them into one library beside the package, named after the torch that it was built
with: C++ interfaces differ between versions of torch, and a library of another one could crash.

    if native.available():
        torch.ops.ssgear_native.log_sum_exp(...)
    else:
        print(native.reason())
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

FOLDER = Path(__file__).parents[1]
PREFIX = "_native-torch-"
OPERATORS = (
    "augment",
    "augment_params",
    "gradient_of_rows",
    "gradient_penalty",
    "gradient_penalty_backward",
    "gradient_penalty_double_backward",
    "gradient_penalty_interpolate",
    "log_sum_exp",
    "philox_uniform",
    "philox_words",
    "scaled_rows",
    "weighted_rows",
    "zero_or_nan",
)
"""What csrc/ defines; a library that lacks one was built from older sources."""
MEND = "install ssgear again, with --no-build-isolation, where torch and a C++ compiler are"


def constant_in_graphs(function: Function) -> Function:
    """Let torch.compile call a function while it traces and keep the answer.

    What torch.compiler.assume_constant_result does; but that imports the compiler, for a second.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


@constant_in_graphs
def available() -> bool:
    """Return whether the operators can be called."""
    return not reason()


@constant_in_graphs
def reason() -> str:
    """Return why the operators cannot be called and what would change it; "" if they can."""
    return _load(FOLDER, str(torch.__version__))


@functools.cache
def _load(folder: Path, version: str) -> str:
    """Load the library that was built with this torch, or return the reason why not."""
    library = folder / f"{PREFIX}{version}.so"
    if not library.exists():
        others = sorted(path.stem.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*.so"))
        if others:
            built = " and ".join(others)
            return f"the C++ operators were built for torch {built}, this is {version}; {MEND}"
        return f"the C++ operators were not built; {MEND}"
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        line = str(error).partition("\n")[0]
        return f"the C++ operators cannot be loaded: {line}; {MEND}"
    missing = [name for name in OPERATORS if not hasattr(torch.ops.ssgear_native, name)]
    if missing:
        return f"the C++ operators are of an older ssgear, without {' and '.join(missing)}; {MEND}"
    return ""
