"""Tables: aligned columns for a terminal, and Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def show(title: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a title, and the cells of every row by its name."""
    width = max(14, *map(len, rows))
    print(f"\n{title}")
    for name, cells in {"": heads, **rows}.items():
        print(f"  {name:{width}}" + "".join(f"{cell:>13}" for cell in cells), flush=True)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])
