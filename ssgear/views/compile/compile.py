"""The slow parts of a diffusers pipeline, compiled: the UNet's step and the VAE's decoder.

    used = compile_pipeline(pipe, mode="auto", device=device, notice=print,
                            example=lambda: pipe(prompts, ...))
    # {"unet": "tensorrt", "vae_decoder": "inductor"}: what each part runs by from now on

`auto` is TensorRT on a GPU where it is installed, else torch.compile, and nothing on a CPU: a step
there is a few large products, which eager PyTorch already does at the rate of the machine, while
compiling takes minutes. `onnx` is the same export and session on onnxruntime's CPU provider. No
form is taken before it gave what eager gives on a real batch (parts.check); one that did not is
named with the figure, and the next is tried. Engines are kept (engines). TensorRT, and
torch.compile on a GPU, are untested on hardware.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from ssgear.errors import ConfigError, first_line
from ssgear.views.compile import engines as _engines
from ssgear.views.compile import onnx as _onnx
from ssgear.views.compile.parts import Inputs, Part, Pipeline, Run, check, parts_of, record

if TYPE_CHECKING:
    import torch

Mode = Literal["auto", "tensorrt", "inductor", "onnx", "none"]
Notice = Callable[[str], None]
_NEXT: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "inductor"),
    "inductor": ("inductor",),
    "onnx": ("onnx",),
    "none": (),
}
"""What is tried, in order; after it, eager."""
_PACKAGES = (
    "torch",
    "diffusers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
)
"""Whose versions an engine depends on."""


def compile_pipeline(
    pipe: Pipeline,
    *,
    mode: Mode,
    device: torch.device,
    notice: Notice,
    example: Callable[[], object],
) -> dict[str, str]:
    """Replace, in place, the UNet's forward and the VAE's decoder by compiled parts.

    A call with other shapes than those of the batch that was compiled for goes to eager, which is
    told once; so does one with what is not compiled (cross-attention arguments, masks, residuals).

    Args:
        pipe: A diffusers pipeline with `unet` and `vae`, already on `device` in its precision, and
            with all that changes its modules (fused projections, processors) done.
        mode: auto, tensorrt, inductor, onnx (onnxruntime on a CPU) or none.
        device: Where the pipeline is.
        notice: Told in one line each time that a choice could not be taken, and why.
        example: Runs one real batch through `pipe` (a few steps suffice); what the parts are given
            meanwhile decides their shapes and is what they are checked on.

    Returns:
        By what each part runs: {"unet": ..., "vae_decoder": ...}, each tensorrt, inductor, onnx or
        none (eager).

    Raises:
        ConfigError: the mode and the device do not go together.
        MissingDependencyError: the mode was named, and what it needs is not installed.
    """
    choices = _choices(mode, device, notice)
    parts = parts_of(pipe)
    used = {part.name: "none" for part in parts}
    if not choices:
        return used
    batch = record(parts, example)
    for part in parts:
        if part.name in batch:
            used[part.name] = _compiled(part, batch[part.name], choices, notice)
        else:
            notice(f"--compile: the {part.name} was given nothing that can be compiled; it is not")
    return used


def _choices(mode: Mode, device: torch.device, notice: Notice) -> tuple[str, ...]:
    """Return what is tried, in order, or refuse the mode."""
    gpu = device.type == "cuda"
    if mode == "auto":
        absent = _onnx.missing("tensorrt") if gpu else None
        if absent is not None:
            need = _onnx.NEEDS["tensorrt"]
            notice(f"--compile auto: no TensorRT ({absent}; {need}); torch.compile instead")
        return _NEXT["tensorrt" if absent is None else "inductor"] if gpu else ()
    if mode == "tensorrt" and not gpu:
        raise ConfigError(
            "--compile: tensorrt needs an NVIDIA GPU and there is none here; use auto, inductor, "
            "onnx or none"
        )
    if mode == "onnx" and gpu:
        raise ConfigError("--compile: onnx runs on the CPU; on a GPU use auto or tensorrt")
    if mode in ("tensorrt", "onnx"):
        _onnx.require_installed(mode)
    return _NEXT[mode]


def _compiled(part: Part, inputs: Inputs, choices: tuple[str, ...], notice: Notice) -> str:
    """Put the first form that can be trusted in a part's place, and return its name."""
    for how, following in pairwise([*choices, "eager"]):
        try:
            run = _inductor(part, inputs) if how == "inductor" else None
            _install(part, inputs, run or _session(part, inputs, how, notice), notice)
        except Exception as error:  # whatever an exporter or a compiler raises costs speed only
            why = _why(error)
        else:
            return how
        notice(f"--compile: {how} is not used for the {part.name}, it {why}; {following} instead")
    return "none"


class _RefusedError(Exception):
    """A compiled form gives something else than eager."""


def _why(error: BaseException) -> str:
    """Say what is wrong with a form, after its name: exporters' own errors say only that."""
    if isinstance(error, _RefusedError):
        return str(error)
    while error.__cause__ is not None:
        error = error.__cause__
    return f"failed: {first_line(error)}"


def _inductor(part: Part, inputs: Inputs) -> Run:
    """Return torch.compile's form of a part for these shapes, checked.

    It takes the same named tensors at every call, so that what was checked is what runs.
    """
    import torch

    forward = torch.compile(part.forward, dynamic=False)
    return _trusted(part, lambda given: part.call(forward, given), inputs)


def _session(part: Part, inputs: Inputs, how: str, notice: Notice) -> Run:
    """Return a session that was checked: of the engine that is kept, or of a new one."""
    import torch

    with torch.no_grad():
        output = part.run(inputs)
    key = _engines.key_of(_facts(part, inputs, how))
    with _engines.locked(key):
        kept = _engines.find(key)
        if kept is not None:
            try:
                return _trusted(part, _onnx.Session(kept, inputs, output, how).run, inputs)
            except Exception as error:
                notice(f"--compile: the {how} engine in {kept} {_why(error)}; made again")
            _engines.remove(key)
        with _engines.making(key) as folder:
            _onnx.export(part, inputs, folder)
            return _trusted(part, _onnx.Session(folder, inputs, output, how).run, inputs)


def _trusted(part: Part, run: Run, inputs: Inputs) -> Run:
    """Return a compiled form that gives what eager gives, or refuse it."""
    problem = check(part, run, inputs)
    if problem is not None:
        raise _RefusedError(problem)
    return run


def _facts(part: Part, inputs: Inputs, how: str) -> dict[str, object]:
    """Return all that an engine depends on."""
    import torch

    sample = inputs["sample"]
    gpu = sample.is_cuda
    return {
        "part": part.name,
        "how": how,
        "opset": _onnx.opset(inputs),
        "weights": _engines.fingerprint(part.module),
        "inputs": {name: [str(v.dtype), list(v.shape)] for name, v in inputs.items()},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "device": torch.cuda.get_device_name(sample.device) if gpu else platform.machine(),
        "capability": list(torch.cuda.get_device_capability(sample.device)) if gpu else [],
    }


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _install(part: Part, inputs: Inputs, run: Run, notice: Notice) -> None:
    """Let a module's callers reach its compiled form, as far as their shapes are those of it."""
    shapes = {name: (value.shape, value.dtype) for name, value in inputs.items()}
    told: list[bool] = []

    def forward(*args: object, **options: object) -> object:
        given = part.read(args, options)
        fits = given is not None and shapes == {
            name: (value.shape, value.dtype) for name, value in given.items()
        }
        if given is None or not fits:
            if not told:
                told.append(True)
                notice(
                    f"--compile: the {part.name} was called with other shapes or arguments than it "
                    "was compiled for; eager instead"
                )
            return part.forward(*args, **options)
        return part.answer(run(given), options)

    part.module.forward = forward
