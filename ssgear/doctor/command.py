"""`python -m ssgear.doctor`: what this machine can run, what it cannot, and what would change that.

One table; the exit status is 0 whatever it says. Every row comes from a probe, and a probe that
fails becomes a row that says so: a broken installation can still be looked at. With `--data DIR`
the table is of a set of images: which engine would feed a model with it, and what limits that.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssgear import __version__, distributed, registry
from ssgear.command import command
from ssgear.config.schema import DataConfig
from ssgear.doctor.packages import Finding, Findings, State, dali, extras, packages
from ssgear.errors import ConfigError, SsgearError, first_line, refusing

STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "missing": "red", "broken": "red"}
GIB = 1024**3
DATA_HELP = "--data DIR  which engine would feed a model with these images, and what limits it"

Probe = Callable[[], Findings]


def python() -> Findings:
    """Interpreter and this package."""
    yield Finding(what="python", found=f"{platform.python_version()}, {sys.executable}")
    methods = ", ".join(registry.names("methods"))
    yield Finding(what="ssgear", found=f"{__version__}, methods: {methods}")


def processor() -> Findings:
    """Cores and vector instructions."""
    import torch

    usable = distributed.usable_cores()
    vectors = torch.backends.cpu.get_cpu_capability()
    slow = vectors == "DEFAULT"
    threads = torch.get_num_threads()
    found = f"{usable} of {os.cpu_count()} cores, {threads} thread(s), {vectors}"
    mend = "a processor with AVX2 trains several times faster" if slow else ""
    yield Finding(what="CPU", found=found, state="note" if slow else "ok", mend=mend)


def gpus() -> Findings:
    """Every GPU that PyTorch can use, or why there is none."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            size = about.total_memory / GIB
            found = f"{about.name}, {size:.0f} GiB, compute {about.major}.{about.minor}"
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            mend = "" if bf16 else "--engine.precision float32: it has no bf16"
            yield Finding(
                what=f"GPU {number}", found=found, state="ok" if bf16 else "note", mend=mend
            )
        return
    driver = Path("/proc/driver/nvidia/version").is_file() or shutil.which("nvidia-smi")
    if torch.version.cuda is None:
        found = "none that PyTorch can use: this build of it has no CUDA"
        mend = "a CUDA build of torch" if driver else "an NVIDIA GPU and a CUDA build of torch"
    else:
        found = f"none (PyTorch is built for CUDA {torch.version.cuda})"
        mend = f"a driver for CUDA {torch.version.cuda}" if driver else "an NVIDIA GPU"
    yield Finding(what="GPU", found=found, state="note", mend=mend)


def memory() -> Findings:
    """Main memory, and the shared memory that worker processes pass batches through."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    free, total = (kib[key] * 1024 / GIB for key in ("MemAvailable", "MemTotal"))
    yield Finding(what="memory", found=f"{free:.1f} of {total:.1f} GiB free")
    folder = Path("/dev/shm")
    shared = shutil.disk_usage(folder).free / GIB if folder.is_dir() else 0.0
    if shared < 0.5:
        found = f"{shared:.2f} GiB free; --data.loader torch passes batches through it"
        mend = "docker run --shm-size 4g, or --data.workers 0"
        yield Finding(what="shared memory", found=found, state="note", mend=mend)


def disk() -> Findings:
    """Room for runs in the current directory."""
    usage = shutil.disk_usage(Path.cwd())
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {Path.cwd()}"
    few = usage.free < GIB
    mend = "--output DIR on another disk" if few else ""
    yield Finding(what="disk", found=found, state="note" if few else "ok", mend=mend)


def caches() -> Findings:
    """Where listings and checks of many images are remembered."""
    from ssgear.storage import cache

    place = cache.folder()
    files = list(place.iterdir()) if place.is_dir() else []
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    writable = os.access(there, os.W_OK)
    found = f"{place}: {megabytes:.0f} MB{'' if writable else ', cannot be written'}"
    mend = "" if writable else "XDG_CACHE_HOME=DIR, or every start reads all images anew"
    yield Finding(what="cache", found=found, state="ok" if writable else "note", mend=mend)


def kernels() -> Findings:
    """Every form of the kernels that a device can run, held to the reference."""
    import torch

    from ssgear.kernels.self_check import check_kernels

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for checked in check_kernels(device):
            wrong = {name: error for name, error in checked.errors.items() if error}
            works = [
                f"{name} works{' (auto)' * (name == checked.auto)}"
                for name in checked.errors
                if name not in wrong
            ]
            bad = ", ".join(f"{name} does not ({error})" for name, error in wrong.items())
            yield Finding(
                what=checked.kernel + ("" if device == "cpu" else " on GPU"),
                found="; ".join(part for part in (", ".join(works), bad) if part),
                state="broken" if wrong else "note" if checked.absent else "ok",
                mend="please report this" if wrong else checked.absent,
            )


def engines() -> Findings:
    """What feeds and steps a model: loaders, plain PyTorch, its compiler, several processes."""
    import torch
    import torch.distributed as dist

    loaders = typing.get_args(typing.get_type_hints(DataConfig)["loader"])
    yield Finding(what="loaders", found=", ".join(name for name in loaders if name != "auto"))
    yield Finding(what="runtime torch", found="one process, or several under torchrun")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler or torch.cuda.is_available():
        yield Finding(
            what="--engine.compile", found=f"C++ compiler: {compiler or 'none, GPU only'}"
        )
    else:
        found = "torch.compile finds no C++ compiler"
        mend = "install g++ (apt-get install g++)"
        yield Finding(what="--engine.compile", found=found, state="note", mend=mend)
    there = dist.is_available()
    gloo, nccl = there and dist.is_gloo_available(), there and dist.is_nccl_available()
    names = [name for name, has in (("gloo (CPU)", gloo), ("NCCL (GPU)", nccl)) if has]
    yield Finding(
        what="several processes",
        found=", ".join(names) or "not in this build of PyTorch",
        state="ok" if names else "missing",
        mend="" if names else "a build of torch with distributed",
    )


def images(path: Path) -> Findings:
    """What a set of images is, the engine that training picks for it, and its speed here."""
    import torch

    from ssgear.data.sources import open_source
    from ssgear.distributed import choose_device
    from ssgear.doctor.speed import measure

    config = DataConfig(path=path)
    source = open_source(config, "train")
    speed = measure(source, config, choose_device("auto", "--device"))
    sides = " to ".join(f"{h} x {w}" for h, w in dict.fromkeys((speed.shortest, speed.largest)))
    classes = f" in {len(source.classes)} classes" if source.classes else ", no labels"
    yield Finding(what="images", found=f"{len(source)} to train on{classes}, {sides} px")
    if speed.bad:
        first = speed.bad[0]
        yield Finding(
            what="unreadable",
            found=f"{len(speed.bad)} of {speed.looked_at} looked at; {first.where}: {first.reason}",
            state="note",
            mend="nothing: training leaves them out, up to --data.max-bad-share",
        )
    yield Finding(what="engine", found=f"{speed.engine}: {speed.reason}")
    rate = speed.read * speed.megabytes
    yield Finding(what="reading", found=f"{speed.read:,.0f} files/s, {rate:,.0f} MB/s, one core")
    yield Finding(what="decoding", found=f"{speed.decoded:,.0f} images/s, one core")
    made = f"{speed.views:,.0f} views/s of {speed.size} px, one core"
    yield Finding(what="augmentation", found=made)
    workers = "" if speed.engine == "resident" else f" with --data.workers {config.workers}"
    yield Finding(
        what="feeds",
        found=f"{speed.fed:,.0f} images/s, two views each{workers}; {speed.limit} limits",
        mend=_faster(speed.limit, config.workers, torch.cuda.is_available()),
    )


def _faster(limit: str, workers: int, has_gpu: bool) -> str:
    """Say what would feed a model faster."""
    cores = distributed.usable_cores()
    if limit == "augmentation":
        return "" if has_gpu else "a GPU, or more cores"
    if limit == "reading files":
        return "a faster disk, or the files in one tar"
    return f"--data.workers {cores}" if cores > workers else "smaller files, or more cores"


PROBES: tuple[Probe, ...] = (
    python, packages, processor, gpus, memory, disk, caches, kernels, engines, dali, extras
)  # fmt: skip


def examine(probes: Sequence[Probe] = PROBES) -> list[Finding]:
    """Run every probe; one that fails is a finding too."""
    findings: list[Finding] = []
    for probe in probes:
        try:
            with warnings.catch_warnings():  # an old driver, say: the row tells it
                warnings.simplefilter("ignore")
                findings += probe()
        except Exception as error:
            found = f"cannot be examined: {first_line(error)}"
            findings.append(Finding(what=probe.__name__, found=found, state="broken"))
    return findings


def table(findings: Sequence[Finding]) -> Table:
    """Lay the findings out."""
    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in ("", "what", "found", "what would change it"):
        grid.add_column(heading, overflow="fold")
    for each in findings:
        state = Text(each.state, STYLES[each.state])
        grid.add_row(state, Text(each.what), Text(each.found), Text(each.mend))
    return grid


@command()
def main(words: list[str]) -> int:
    """Print the table; the exit status is 0 unless the command itself is wrong."""
    if any(word in ("-h", "--help") for word in words):
        usage = "usage: python -m ssgear.doctor [--data DIR]"
        print(f"{usage}\n\n{__doc__.splitlines()[0]}\n\n{DATA_HELP}")
        return 0
    path = _data_path(words)
    with refusing(SsgearError, _as_called_here):
        findings = examine() if path is None else list(images(path))
    Console(highlight=False).print(table(findings))
    return 0


def _as_called_here(error: SsgearError) -> ConfigError:
    return ConfigError(str(error).replace("--data.path", "--data"))


def _data_path(words: list[str]) -> Path | None:
    """Return what --data names; None where nothing was asked."""
    if not words:
        return None
    option, equals, value = words[0].partition("=")
    values = [*([value] if equals else []), *words[1:]]
    if option != "--data":
        raise ConfigError(f"doctor: {words[0]}: unknown option; it takes --data DIR and no other")
    if len(values) != 1 or not values[0]:
        raise ConfigError("doctor: --data: give one folder or tar file of images")
    return Path(values[0]).expanduser()


if __name__ == "__main__":
    sys.exit(main())
