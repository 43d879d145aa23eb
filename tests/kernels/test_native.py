"""The C++ operators: built here, refused where they do not fit, and the same on every CPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.forms import choose
from ssgear.kernels.nt_xent import loss, nt_xent

ROOT = Path(__file__).parents[2]
BUILT = pytest.mark.skipif(not native.available(), reason=native.reason())
LEVELS = ("avx2", "avx512")
CHECK = """
import torch
from ssgear.kernels import native
from ssgear.kernels.nt_xent import tiles
assert native.available(), native.reason()
torch.manual_seed(0)
x = torch.nn.functional.normalize(torch.randn(301, 40).double(), dim=1) / 0.1**0.5
ops = torch.ops.ssgear_native
for kind, allowed in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
    u = x.to(kind)
    for rows, first in ((u, 0), (u[100:233].clone(), 100)):
        for bounded in (True, False):
            names = {"right": tiles, "ours": ops}
            lse = {k: m.log_sum_exp(rows.to(u), u, first, bounded) for k, m in names.items()}
            assert (lse["ours"] - lse["right"]).abs().max() < allowed, (kind, first, bounded)
            whole = tiles.log_sum_exp(u, u, 0, bounded)
            g = {k: m.weighted_rows(rows, u, whole, first, bounded) for k, m in names.items()}
            assert (g["ours"] - g["right"]).abs().max() < 4 * allowed, (kind, first, bounded)
print(torch.backends.cpu.get_cpu_capability().lower())
"""


def test_a_machine_with_a_compiler_has_the_operators() -> None:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler here")
    if os.environ.get("SSGEAR_BUILD_NATIVE") == "0":
        pytest.skip("SSGEAR_BUILD_NATIVE=0")
    assert native.available(), native.reason()


def test_without_a_library_the_reason_names_the_mend(tmp_path: Path) -> None:
    reason = native._load(tmp_path, "2.15.0")
    assert reason == (
        "the C++ operators were not built; install ssgear again, with --no-build-isolation, "
        "where torch and a C++ compiler are"
    )


def test_the_operators_are_those_of_the_sources() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "csrc").glob("*.cpp"))
    defined = re.findall(r'library\.def\(\s*"(\w+)\(', sources)
    assert sorted(defined) == list(native.OPERATORS)


@BUILT
def test_a_library_of_older_sources_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "OPERATORS", (*native.OPERATORS, "of_tomorrow"))
    reason = native._load.__wrapped__(native.FOLDER, str(torch.__version__))
    assert reason.startswith("the C++ operators are of an older ssgear, without of_tomorrow; ")


def test_a_library_of_another_torch_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "_native-torch-2.12.1+cpu.so").write_bytes(b"would crash")
    reason = native._load(tmp_path, "2.15.0")
    assert "were built for torch 2.12.1+cpu, this is 2.15.0; install ssgear again" in reason


def test_a_broken_library_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_native-torch-9.so").write_bytes(b"no library")
    reason = native._load(tmp_path, "9")
    assert "cannot be loaded" in reason and "_native-torch-9.so" in reason and "\n" not in reason


def form_for(impl: str, z: Tensor) -> str:
    return choose("nt_xent", impl, loss.FORMS, z, (z,)).name


def test_where_it_is_not_possible_auto_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(8, 3)
    right = nt_xent(z)
    monkeypatch.setattr(native, "reason", lambda: "it was not built")
    with pytest.raises(ArgumentError, match="'cpp' is not possible here: it was not built; use"):
        nt_xent(z, impl="cpp")
    assert form_for("auto", z) == "streaming"
    torch.testing.assert_close(nt_xent(z), right)


def test_it_is_for_cpus() -> None:
    elsewhere = torch.empty(8, 3, device="meta")
    with pytest.raises(ArgumentError, match="for CPUs, and got meta; use auto or streaming or ref"):
        form_for("cpp", elsewhere)
    assert form_for("auto", elsewhere) == "streaming"


@BUILT
def test_auto_takes_it() -> None:
    assert form_for("auto", torch.empty(8, 3)) == "cpp"


@BUILT
@pytest.mark.parametrize("capability", ["default", *LEVELS])
def test_every_instruction_set_agrees_with_pytorch(capability: str) -> None:
    here = torch.backends.cpu.get_cpu_capability().lower()
    if capability not in ("default", *LEVELS[: 1 + LEVELS.index(here) if here in LEVELS else 0]):
        pytest.skip(f"this CPU has {here}")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, capability), done.stderr


@BUILT
@pytest.mark.parametrize("bounded", [True, False])
def test_the_number_of_threads_changes_no_bit(bounded: bool) -> None:
    u = torch.randn(1501, 32, generator=torch.Generator().manual_seed(2)) / 4
    own = u[300:700].clone()
    ops, before, results = torch.ops.ssgear_native, torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5, 8):
            torch.set_num_threads(threads)
            lse = ops.log_sum_exp(u, u, 0, bounded)
            parts = (lse, ops.log_sum_exp(own, u, 300, bounded))
            parts += (ops.weighted_rows(u, u, lse, 0, bounded),)
            results.append((*parts, ops.weighted_rows(own, u, lse, 300, bounded)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for mine, first in zip(result, results[0], strict=True):
            assert torch.equal(mine, first)


WITHOUT = {
    "switched off": "SSGEAR_BUILD_NATIVE=0 says",
    "no compiler": "building them failed: ",
    "no torch": "torch is not there while this package is built: not today",
}


@pytest.mark.parametrize("how", WITHOUT)
def test_the_package_builds_without_them(how: str, tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "ssgear").mkdir()
    (tmp_path / "ssgear" / "__init__.py").write_text('__version__ = "0"\n')
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "torch.py").write_text("raise ImportError('not today')\n")
    missing = str(tmp_path / "none" / "g++")
    environment = {**os.environ, "CC": missing, "CXX": missing}
    environment["SSGEAR_BUILD_NATIVE"] = "0" if how == "switched off" else "1"
    if how == "no torch":
        environment["PYTHONPATH"] = str(tmp_path / "none")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))
    assert done.stdout.count("the PyTorch versions serve") == 1 and WITHOUT[how] in done.stdout
