from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssgear.doctor import command as doctor
from ssgear.doctor import packages as doctor_packages
from ssgear.doctor import speed
from ssgear.doctor.packages import EXTRAS, Finding


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make packages look as if they were not installed."""
    version = metadata.version

    def of(name: str) -> str:
        if name in packages:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", of)


def test_the_command_prints_one_table_and_leaves_with_0() -> None:
    optional = {"torch_fidelity", *(name for extra in EXTRAS.values() for name in extra.packages)}
    program = (
        "import sys; from ssgear.doctor import main\n"
        f"assert main([]) == 0; assert not {optional!r} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "python",
        "torch",
        "CPU",
        "GPU",
        "memory",
        "disk",
        "nt_xent",
        "deepspeed",
        "diffusers",
        "DALI",
        "gloo",
    ):
        assert word in done.stdout
    assert done.stdout.count("what would change it") == 1


def test_the_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssgear.storage import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert by_name(doctor.caches())["cache"].found == f"{tmp_path}/new/ssgear: 0 MB"
    cache.folder().mkdir(parents=True)
    (cache.folder() / "x").write_bytes(bytes(3_200_000))
    assert by_name(doctor.caches())["cache"].found.endswith("ssgear: 3 MB")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    row = by_name(doctor.caches())["cache"]
    assert "cannot be written" in row.found and row.state == "note" and row.mend


def test_here_the_loss_works_on_the_cpu() -> None:
    from ssgear.kernels import native

    found = by_name(doctor.kernels())["nt_xent"]
    assert "streaming works" in found.found and "reference works" in found.found
    assert ("cpp" if native.available() else "streaming") + " works (auto)" in found.found
    assert found.state == ("ok" if native.available() else "note")
    assert ("cpp works" in found.found) == native.available()
    assert found.mend == native.reason()


def test_here_the_augmentation_works_on_the_cpu() -> None:
    from ssgear.kernels import native

    found = by_name(doctor.kernels())["augment"]
    forms = "cpp works (auto), reference works" if native.available() else "reference works (auto)"
    assert (found.found, found.mend) == (forms, native.reason())


@pytest.mark.parametrize("kernel", ["info_nce", "gradient_penalty"])
def test_here_the_other_losses_work_on_the_cpu(kernel: str) -> None:
    from ssgear.kernels import native

    found = by_name(doctor.kernels())[kernel]
    assert "reference works" in found.found
    assert ("cpp works (auto)" in found.found) == native.available()
    assert (found.mend, "does not" in found.found) == (native.reason(), False)


def test_a_wrong_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssgear.kernels import self_check

    right = self_check.nt_xent.nt_xent

    def off(z: Any, *, impl: str, **others: Any) -> Any:
        if impl == "streaming":
            return right(z, impl="reference", **others) * (1 + 1e-4)
        return right(z, impl="reference", **others)

    monkeypatch.setattr(self_check.nt_xent, "nt_xent", off)
    found = by_name(doctor.kernels())["nt_xent"]
    assert found.state == "broken"
    assert "reference works" in found.found
    assert found.found.endswith("; streaming does not (off by 0.0001 of the reference)")

    def fails(z: Any, **others: Any) -> Any:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(self_check.nt_xent, "nt_xent", fails)
    assert "streaming does not (no such operator)" in by_name(doctor.kernels())["nt_xent"].found

    info_nce = self_check.info_nce.info_nce

    def other_key(q: Any, k: Any, *rest: Any, impl: str) -> Any:
        return info_nce(q, k if impl == "reference" else k.flip(0), *rest, impl="reference")

    monkeypatch.setattr(self_check.info_nce, "info_nce", other_key)
    assert "streaming does not (off by" in by_name(doctor.kernels())["info_nce"].found

    monkeypatch.setattr(self_check, "sample_norm_penalty", fails)
    assert "reference does not (" in by_name(doctor.kernels())["gradient_penalty"].found

    *fast, reference = self_check.augment.FORMS

    def brighter(*given: Any) -> Any:
        return reference.run(*given) + 0.01

    forms = [dataclasses.replace(form, run=brighter) for form in fast]
    monkeypatch.setattr(self_check.augment, "FORMS", (*forms, reference))
    found = by_name(doctor.kernels())["augment"]
    assert found.state == ("broken" if "cpp" in found.found else "note")


def test_optional_packages_say_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "deepspeed", "triton", "timm")
    extra = by_name(doctor_packages.extras())["deepspeed"]
    assert (extra.state, extra.mend) == ("note", 'pip install "ssgear[deepspeed]"')
    assert extra.found == "not installed: deepspeed (ZeRO, --deepspeed ds.json)"
    needed = by_name(doctor_packages.packages())
    assert (needed["triton"].state, needed["timm"].state) == ("note", "missing")
    assert needed["timm"].mend == "pip install timm"


def test_the_extras_are_those_that_can_be_installed() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines}
        for extra, lines in declared.items()
        if extra not in ("bench", "dali", "dev")
    }
    assert {name: {*extra.packages} for name, extra in EXTRAS.items()} == names


ONNX, TENSORRT = (f'pip install "ssgear[{name}]"' for name in ("onnx", "tensorrt"))


@pytest.mark.parametrize(
    ("installed", "onnx", "tensorrt", "both"),
    [
        ("", ONNX, TENSORRT, False),
        ("onnx onnxruntime onnxscript", "", f"pip uninstall onnxruntime, then {TENSORRT}", False),
        ("onnx onnxruntime-gpu onnxscript tensorrt", "", "", False),
        ("onnx onnxruntime-gpu tensorrt", "pip install onnxscript", TENSORRT, False),
        ("onnx onnxruntime onnxruntime-gpu onnxscript tensorrt", "", "", True),
    ],
)
def test_two_onnxruntimes_are_never_recommended(
    installed: str, onnx: str, tensorrt: str, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = installed.split()
    monkeypatch.setattr(
        doctor_packages, "version_of", lambda name: "1.0" if name in there else None
    )
    rows = by_name(doctor_packages.extras())
    assert (rows["onnx"].mend, rows["tensorrt"].mend) == (onnx, tensorrt)
    assert (rows["onnx"].state == "ok", rows["tensorrt"].state == "ok") == (not onnx, not tensorrt)
    assert ("onnxruntime" in rows) is both
    if both:
        mend = rows["onnxruntime"].mend
        assert mend.startswith("pip uninstall onnxruntime onnxruntime-gpu, then ")


def test_dali_says_whether_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    (here,) = doctor_packages.dali()
    assert here.state == "ok" and here.what == "DALI" and here.found[0].isdigit()
    monkeypatch.setattr(
        "ssgear.data.loaders.dali_pipeline.why_not",
        lambda device: "it is not there; pip install it",
    )
    (absent,) = doctor_packages.dali()
    assert (absent.state, absent.mend) == ("note", "pip install it")
    assert absent.found.startswith("it is not there (")


def test_missing_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.11", "rich", "a-nowhere.package>=1; python_version>'3'", "x; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert doctor_packages.missing_requirements() == ["a-nowhere.package"]

    def not_installed(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", not_installed)
    assert doctor_packages.missing_requirements() == []


@pytest.mark.parametrize(
    ("cuda", "driver", "found", "mend"),
    [
        (None, None, "this build of it has no CUDA", "an NVIDIA GPU and a CUDA build of torch"),
        (None, "/usr/bin/nvidia-smi", "this build of it has no CUDA", "a CUDA build of torch"),
        ("13.0", "/usr/bin/nvidia-smi", "built for CUDA 13.0", "a driver for CUDA 13.0"),
    ],
)
def test_without_a_gpu_it_says_why(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, driver: str | None, found: str, mend: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(shutil, "which", lambda name: driver)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    (row,) = doctor.gpus()
    assert row.state == "note"
    assert found in row.found
    assert row.mend == mend


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    card = types.SimpleNamespace(name="Tesla V100", total_memory=16 * 2**30, major=7, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    (row,) = doctor.gpus()
    assert (row.what, row.found) == ("GPU 0", "Tesla V100, 16 GiB, compute 7.0")
    assert row.mend == "--engine.precision float32: it has no bf16"


def test_a_full_disk_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    little = types.SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    assert by_name(doctor.disk())["disk"].state == "note"
    shared = by_name(doctor.memory())["shared memory"]
    assert shared.mend == "docker run --shm-size 4g, or --data.workers 0"


def test_a_probe_that_fails_is_a_row() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding(what="first", found="is kept")
        raise OSError("libcudart.so is gone\nlong story")

    rows = doctor.examine([broken, doctor.python])
    assert [row.found for row in rows[:2]] == [
        "is kept",
        "cannot be examined: libcudart.so is gone",
    ]
    assert [row.what for row in rows] == ["first", "broken", "python", "ssgear"]


def test_without_torch_the_rest_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    without(monkeypatch, "torch")
    rows = doctor.examine()
    assert {row.state for row in rows if row.what in ("torch", "processor")} == {
        "missing",
        "broken",
    }
    assert {row.what for row in rows} >= {"python", "memory", "disk", "deepspeed"}
    doctor.table(rows)


def test_words_on_the_command_line(
    run_ssgear: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PROBES", ())
    assert "usage: python -m ssgear.doctor" in run_ssgear("doctor", "--help").out
    outcome = run_ssgear("doctor", "--verbose")
    assert (outcome.status, outcome.err) == (
        2,
        "ssgear: doctor: --verbose: unknown option; it takes --data DIR and no other\n",
    )


def pictures(folder: Path, count: int, sides: tuple[int, int]) -> Path:
    """Write noise of the two sides in turn, as PNG files of two classes."""
    for number in range(count):
        side = sides[number % 2]
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.parametrize(
    ("sides", "engine", "sizes"),
    [
        ((24, 24), "resident: ", "24 x 24 px"),
        ((24, 41), "torch: ", "24 x 24 to 41 x 41 px"),
    ],
)
def test_a_set_of_images_is_measured(
    sides: tuple[int, int],
    engine: str,
    sizes: str,
    tmp_path: Path,
    run_ssgear: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.05)
    folder = pictures(tmp_path / "set", 22, sides)
    (folder / "a" / "bad.png").write_bytes(b"no image")
    rows = {row.what: row.found for row in doctor.images(folder)}
    assert rows["images"].endswith(f"to train on in 2 classes, {sizes}")
    assert rows["engine"].startswith(engine)
    unreadable = rows.pop("unreadable")
    assert unreadable.startswith("1 of ")
    assert unreadable.endswith("/a/bad.png: not an image that can be read")
    assert set(rows) == {"images", "engine", "reading", "decoding", "augmentation", "feeds"}
    rates = [int(found.split()[0].replace(",", "")) for found in list(rows.values())[2:]]
    assert min(rates) > 0
    outcome = run_ssgear("doctor", "--data", folder)
    assert outcome.status == 0 and "limits" in outcome.out


def test_a_wrong_set_of_images_is_told_in_one_line(
    run_ssgear: Callable[..., Any], tmp_path: Path
) -> None:
    assert run_ssgear("doctor", "--data", tmp_path / "no").err.startswith("ssgear: --data: /")
    assert run_ssgear("doctor", "--data").err.startswith("ssgear: doctor: --data: give one folder")
