"""The rows of `ssgear.doctor` on packages: those that everything needs, and the optional ones.

Versions come from what pip wrote down; no package is imported for a row but DALI, which may be
there and of another CUDA. `EXTRAS` says what each extra of ssgear brings and what it consists of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the table."""

    what: str
    """What was looked at."""
    found: str
    """What is there."""
    state: State = "ok"
    """It works, works with a reservation, is not there, or does not work."""
    mend: str = ""
    """What would change it."""


Findings = Iterator[Finding]


@dataclass(frozen=True, kw_only=True)
class Extra:
    """What `pip install "ssgear[NAME]"` adds."""

    brings: str
    """What works with it."""
    packages: tuple[str, ...]
    """What it consists of, by the names that pip knows."""


EXTRAS = {
    "deepspeed": Extra(brings="ZeRO, --deepspeed ds.json", packages=("deepspeed",)),
    "fid": Extra(brings="FID, --eval.inception FILE", packages=("torchmetrics", "torch-fidelity")),
    "generate": Extra(
        brings="views from diffusion models, generate --generator sd2-caption, sd-image",
        packages=("diffusers", "transformers", "accelerate", "spandrel"),
    ),
    "onnx": Extra(
        brings="generate --compile onnx, on CPUs", packages=("onnx", "onnxruntime", "onnxscript")
    ),
    "tensorrt": Extra(
        brings="generate --compile tensorrt, on NVIDIA GPUs",
        packages=("onnx", "onnxruntime-gpu", "onnxscript", "tensorrt"),
    ),
    "ray": Extra(brings="generated views on several machines", packages=("ray",)),
}
"""The extra `dali` has a probe of its own."""


def packages() -> Findings:
    """Packages that everything needs; those that are there and hardly matter have no row."""
    for package in ("torch", "torchvision", "timm"):
        version = version_of(package)
        yield Finding(what=package, found=version) if version else absent(package)
    version = version_of("triton")
    if version:
        yield Finding(what="triton", found=version)
    else:
        found = "not installed; kernels on NVIDIA GPUs need it"
        yield Finding(what="triton", found=found, state="note", mend="pip install triton")
    yield from (absent(package) for package in missing_requirements())


def absent(package: str) -> Finding:
    """Say that a package that is needed is not there."""
    mend = f"pip install {package}"
    return Finding(what=package, found="not installed", state="missing", mend=mend)


def version_of(package: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing_requirements() -> list[str]:
    """Return what this package requires, by its own metadata, and what is not installed."""
    try:
        lines = metadata.requires("ssgear") or []
    except metadata.PackageNotFoundError:  # runs from its source, not installed
        return []
    core = [line for line in lines if "extra ==" not in line]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in core]
    shown = {"torch", "torchvision", "timm"}
    return [name for name in names if name not in shown and version_of(name) is None]


def dali() -> Findings:
    """The loader that decodes on the GPU: there, and of the right CUDA."""
    import torch

    from ssgear.data.loaders.dali_pipeline import why_not

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problem, _, mend = why_not(device).partition("; ")
    if problem:
        found = f"{problem} (files decoded on the GPU, --data.loader dali)"
        yield Finding(what="DALI", found=found, state="note", mend=mend)
        return
    import nvidia.dali

    place = "decodes on the GPU" if device.type == "cuda" else "on the CPU: no GPU here"
    yield Finding(what="DALI", found=f"{nvidia.dali.__version__}, {place}")


def extras() -> Findings:
    """Optional packages, and what would install them."""
    yield from (_extra(name, extra) for name, extra in EXTRAS.items())
    if version_of("onnxruntime") and version_of("onnxruntime-gpu"):
        yield Finding(
            what="onnxruntime",
            found="onnxruntime and onnxruntime-gpu are both installed, into one folder",
            state="note",
            mend="pip uninstall onnxruntime onnxruntime-gpu, then install the extra of your choice",
        )


def _extra(name: str, extra: Extra) -> Finding:
    versions = {package: version_of(package) for package in extra.packages}
    install = f'pip install "ssgear[{name}]"'
    if name == "onnx" and version_of("onnxruntime-gpu"):
        # it has the CPU's part too; the extra would put onnxruntime into its folder
        versions["onnxruntime"] = versions["onnxruntime"] or version_of("onnxruntime-gpu")
        install = f"pip install {' '.join(name for name, has in versions.items() if not has)}"
    elif name == "tensorrt" and version_of("onnxruntime") and not versions["onnxruntime-gpu"]:
        install = f"pip uninstall onnxruntime, then {install}"
    absent = [package for package, version in versions.items() if version is None]
    if absent:
        found = f"not installed: {', '.join(absent)} ({extra.brings})"
        return Finding(what=name, found=found, state="note", mend=install)
    there = ", ".join(f"{package} {version}" for package, version in versions.items())
    return Finding(what=name, found=f"{there} ({extra.brings})")
