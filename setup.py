"""Build script; all metadata stands in pyproject.toml.

It is there because the C++ operators of csrc/ have to be declared in code, against the torch that
is already installed. That is also why torch is installed first and this package with
`--no-build-isolation`. Without torch or a compiler, or with SSGEAR_BUILD_NATIVE=0, the package is
installed all the same: what the operators do is then done in PyTorch (ssgear/kernels/native.py).
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WITHOUT = "the PyTorch versions serve in place of the C++ operators"
API = "include/torch/csrc/api/include"


class BuildOperators(build_ext):
    """One plain library for this very torch; a build that fails is told and not fatal."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the name that ssgear/kernels/native.py looks for."""
        import torch

        folders = fullname.split(".")[:-1]
        return os.path.join(*folders, f"_native-torch-{torch.__version__}.so")

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        try:
            super().build_extension(ext)
        except Exception as error:
            line = str(error).partition("\n")[0]
            print(f"ssgear: {WITHOUT}; building them failed: {line}")


def operators() -> list[Extension]:
    """Return what is to be built: one library, or nothing."""
    if os.environ.get("SSGEAR_BUILD_NATIVE") == "0":
        print(f"ssgear: {WITHOUT}, as SSGEAR_BUILD_NATIVE=0 says")
        return []
    try:
        import torch
    except Exception as error:
        line = str(error).partition("\n")[0]
        print(f"ssgear: {WITHOUT}; torch is not there while this package is built: {line}")
        return []
    home = Path(torch.__file__).parent
    # torch's own OpenMP, whatever its file is called: two of them would not know each other
    openmp = [str(path) for path in (home / "lib").glob("libgomp*")] or ["-fopenmp"]
    flags = ["-std=c++20", "-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-Wno-psabi"]
    flags += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    flags += [f"-isystem{home / folder}" for folder in ("include", API)]
    return [
        Extension(
            "ssgear._native",
            sources=sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").iterdir()),
            define_macros=[("_GLIBCXX_USE_CXX11_ABI", str(int(torch.compiled_with_cxx11_abi())))],
            library_dirs=[str(home / "lib")],
            libraries=["torch_cpu", "c10"],
            extra_compile_args=flags,
            extra_link_args=["-Wl,--no-undefined", *openmp],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=operators(), cmdclass={"build_ext": BuildOperators})
