"""Every benchmark by one name: `python -m benchmarks WHAT [OPTIONS]`; alone it lists them.

Only the one that is named is imported. `python -m benchmarks.WHAT` does the same.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ssgear.command import quiet_without_reader
from ssgear.errors import ConfigError, did_you_mean

BENCHMARKS = (
    "kernels", "augment", "loaders", "methods", "train_step", "gan_row", "views", "generate",
    "finetune", "evaluation",
)  # fmt: skip


@quiet_without_reader()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    name = words[0].replace("-", "_")
    if name not in BENCHMARKS:
        near = did_you_mean(name, BENCHMARKS)
        error = ConfigError(f"{words[0]}: unknown{near}; known: {', '.join(BENCHMARKS)}")
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    status: int = importlib.import_module(f"benchmarks.{name}").BENCHMARK.main(words[1:])
    return status


def usage() -> str:
    """Return a line for each benchmark: the first of its module."""
    lines = ["usage: python -m benchmarks WHAT [OPTIONS]", ""]
    for name in BENCHMARKS:
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        lines.append(f"  {name:<12}{doc.partition(chr(10))[0]}")
    return "\n".join([*lines, "", "python -m benchmarks WHAT --help lists the options of one."])


if __name__ == "__main__":
    sys.exit(main())
